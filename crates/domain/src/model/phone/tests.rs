#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that meets nonsense of its own fails")]

use super::*;

fn country(code: &str) -> Country {
    Country::parse(code).unwrap()
}

fn read(code: &str, text: &str) -> Result<String, InvalidNumber> {
    Msisdn::dialled(text, country(code)).map(|number| number.as_str().to_owned())
}

#[test]
fn a_country_is_two_upper_case_letters_that_somebody_has() {
    for code in ["GB", "US", "DE", "IT", "VA", "KZ", "XK"] {
        assert_eq!(Country::parse(code).as_ref().map(Country::as_str), Ok(code));
    }
    for code in ["", "G", "gb", "Gb", "GBR", "44", "ZZ", "AQ", "001", "UK", " GB", "GB ", "ＧＢ", "É"] {
        assert_eq!(Country::parse(code), Err(InvalidCountry), "{code}");
    }
}

#[test]
fn spellings_of_one_number_are_one_number() {
    for (code, text, digits) in [
        // As the specification's example has it.
        ("GB", "07700900001", "447700900001"),
        ("GB", "07700 900 001", "447700900001"),
        ("GB", "+447700900001", "447700900001"),
        ("GB", "+44 (0)7700 900001", "447700900001"),
        ("GB", "00 44 7700 900001", "447700900001"),
        ("GB", "447700900001", "447700900001"),
        ("GB", "7700900001", "447700900001"),
        ("GB", "\u{202a}+44\u{a0}7700\u{2011}900.001\u{202c}", "447700900001"),
        ("GB", "٠٧٧٠٠٩٠٠٠٠١", "447700900001"),
        ("GB", "＋４４７７００９００００１", "447700900001"),
        ("GB", "020 7946 0958", "442079460958"),
        ("US", "(520) 878-2491", "15208782491"),
        ("US", "1-520-878-2491", "15208782491"),
        ("US", "+1 520.878.2491", "15208782491"),
        ("US", "011 44 7700 900001", "447700900001"),
        ("CA", "(613) 782-7274", "16137827274"),
        ("DE", "0151 23456789", "4915123456789"),
        ("DE", "030/123456", "4930123456"),
        ("FR", "06 31 96 65 43", "33631966543"),
        ("NZ", "021 387 835", "6421387835"),
        ("AU", "0406 823 897", "61406823897"),
        ("JP", "090-1234-5678", "819012345678"),
        ("IN", "081234 56789", "918123456789"),
        ("BR", "(11) 96123-4567", "5511961234567"),
        ("AR", "011 15-2345-6789", "5491123456789"),
        // The zero of a fixed line belongs to the number in Italy.
        ("IT", "02 3661 8300", "390236618300"),
        ("IT", "+39 02 3661 8300", "390236618300"),
        // A mobile number that begins like the country's code.
        ("IT", "392 123 4567", "393921234567"),
        ("RU", "8 (912) 345-67-89", "79123456789"),
        ("RU", "+7 912 345-67-89", "79123456789"),
    ] {
        assert_eq!(read(code, text).as_deref(), Ok(digits), "{code} {text}");
    }
}

#[test]
fn a_number_for_the_whole_world_has_its_own_country_whatever_country_is_given() {
    for (code, text, digits, belongs_to) in [
        ("US", "+447700900001", "447700900001", "GB"),
        ("GB", "+15208782491", "15208782491", "US"),
        ("US", "+16137827274", "16137827274", "CA"),
        ("GB", "+39 02 3661 8300", "390236618300", "IT"),
        ("GB", "00 39 02 3661 8300", "390236618300", "IT"),
        ("DE", "+77011234567", "77011234567", "KZ"),
    ] {
        assert_eq!(read(code, text).as_deref(), Ok(digits), "{code} {text}");
        assert_eq!(Msisdn::parse(digits).unwrap().country(), Some(country(belongs_to)), "{digits}");
    }
}

#[test]
fn what_gets_no_message_is_refused_and_the_reason_told() {
    use InvalidNumber::{Impossible, NotDigits, Unreachable};
    let long = "1".repeat(65);
    for (code, text, why) in [
        ("GB", "", NotDigits),
        ("GB", "+", NotDigits),
        ("GB", "phone", NotDigits),
        ("US", "1-800-FLOWERS", NotDigits),
        ("US", "+1 520 TRUE CAR", NotDigits),
        ("GB", "07700 900001 ext. 12", NotDigits),
        ("GB", "07700 900001x12", NotDigits),
        ("GB", "07700900001#12", NotDigits),
        ("GB", "07700900001,12", NotDigits),
        ("GB", "tel:+447700900001", NotDigits),
        ("GB", "+447700900001;ext=1", NotDigits),
        ("GB", "++447700900001", NotDigits),
        ("GB", "44+7700900001", NotDigits),
        ("GB", "*31#07700900001", NotDigits),
        ("GB", "07700900001\n", NotDigits),
        ("GB", "07700\u{0}900001", NotDigits),
        ("GB", long.as_str(), NotDigits),
        ("GB", "0", Impossible),
        ("GB", "07700", Impossible),
        ("GB", "077009000010", Impossible),
        ("GB", "999", Impossible),
        ("US", "878-2491", Impossible),
        ("US", "+1520878249", Impossible),
        ("US", "+152087824911", Impossible),
        ("DE", "1", Impossible),
        ("GB", "+0447700900001", Impossible),
        // Nobody has this country code.
        ("GB", "+999123456789", Impossible),
        ("GB", "+210123456789", Impossible),
        ("GB", "+123456789012345678901", Impossible),
        // Premium rate, toll free, shared cost, personal, paging, and networks of no country.
        ("GB", "0909 8790000", Unreachable),
        ("US", "900-555-0123", Unreachable),
        ("DE", "0900 5123456", Unreachable),
        ("US", "+1 800 356 9377", Unreachable),
        ("GB", "0800 1234567", Unreachable),
        ("GB", "070 1234 5678", Unreachable),
        ("GB", "+979123456789", Unreachable),
        ("GB", "+80012345678", Unreachable),
        ("GB", "+881612345678", Unreachable),
    ] {
        assert_eq!(read(code, text), Err(why), "{code} {text:?}");
    }
}

/// The plans name an example for most kinds of numbers.
#[test]
fn examples_of_every_country_are_read_and_premium_ones_refused() {
    let (mut mobile, mut doubtful, mut premium) = (0, Vec::new(), 0);
    for plan in DATABASE.iter().filter(|plan| Country::parse(plan.id()).is_ok()) {
        let kinds = plan.descriptors();
        if let Some(example) = kinds.mobile().and_then(Descriptor::example) {
            mobile += 1;
            let expected = format!("{}{example}", plan.country_code());
            match read(plan.id(), &format!("+{expected}")) {
                Ok(digits) => assert_eq!(digits, expected, "{}", plan.id()),
                Err(InvalidNumber::Doubtful) => doubtful.push(plan.id()),
                Err(error) => panic!("{} {example}: {error:?}", plan.id()),
            }
        }
        if let Some(example) = kinds.premium_rate().and_then(Descriptor::example) {
            premium += 1;
            let refused = read(plan.id(), &format!("+{}{example}", plan.country_code()));
            assert!(refused.is_err(), "{} {example}: {refused:?}", plan.id());
        }
    }
    doubtful.sort_unstable();
    assert!(mobile > 230 && premium > 100, "{mobile} {premium}");
    assert!(doubtful.is_empty(), "{doubtful:?}");
}

#[test]
fn ranges_that_the_library_reads_as_another_number_are_refused() {
    // Kazan's: the library takes the area code's first digit for the national prefix.
    assert_eq!(read("RU", "+7 843 234-56-78"), Err(InvalidNumber::Doubtful));
}

#[test]
fn a_number_is_shown_as_people_read_it() {
    for (digits, shown) in [
        ("447700900813", "+44 7700 900813"),
        ("15208782491", "+1 520-878-2491"),
        ("390236618300", "+39 02 3661 8300"),
        ("4915123456789", "+49 1512 3456789"),
        // No plan knows these; they may stand in an imported table.
        ("999123", "+999123"),
        ("1", "+1"),
    ] {
        assert_eq!(Msisdn::parse(digits).unwrap().international(), shown);
    }
}

mod generated {
    use proptest::prelude::*;

    use super::*;

    fn codes() -> Vec<&'static str> {
        let mut codes: Vec<_> =
            DATABASE.iter().map(Metadata::id).filter(|id| Country::parse(id).is_ok()).collect();
        codes.sort_unstable();
        codes
    }

    proptest! {
        /// Whatever is read is E.164, and reading it again changes nothing.
        #[test]
        fn what_was_read_is_read_as_itself_everywhere(
            home in prop::sample::select(codes()),
            elsewhere in prop::sample::select(codes()),
            text in prop_oneof!["\\+?[0-9]{4,15}", "\\+?[0-9 ()./-]{4,20}", "\\+[1-9][0-9]{6,13}", "0[0-9]{6,12}"],
        ) {
            if let Ok(number) = Msisdn::dialled(&text, country(home)) {
                prop_assert_eq!(Msisdn::parse(number.as_str()), Ok(number.clone()));
                let written = format!("+{}", number.as_str());
                prop_assert_eq!(Msisdn::dialled(&written, country(elsewhere)), Ok(number.clone()), "{} {}", home, text);
                let shown = number.international();
                prop_assert_eq!(Msisdn::dialled(&shown, country(home)), Ok(number.clone()), "{}", shown);
                prop_assert!(number.country().is_some());
            }
        }

        #[test]
        fn any_text_is_read_or_refused_without_panic(home in prop::sample::select(codes()), text in any::<String>()) {
            if let Ok(number) = Msisdn::dialled(&text, country(home)) {
                prop_assert!(number.as_str().bytes().all(|byte| byte.is_ascii_digit()));
            }
        }

        #[test]
        fn any_digits_have_a_country_or_none_without_panic(digits in "[1-9][0-9]{0,14}") {
            let number = Msisdn::parse(&digits).unwrap();
            let _ = number.country();
            prop_assert!(number.international().starts_with('+'));
        }
    }
}
