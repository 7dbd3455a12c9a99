//! Decimal digits in any script: people paste codes and numbers as their keyboards write them.

/// The zero of every run of ten decimal digits (Unicode's category `Nd`, whose digits always stand in such runs).
const ZEROS: [char; 77] = [
    '0',
    '\u{660}',
    '\u{6f0}',
    '\u{7c0}',
    '\u{966}',
    '\u{9e6}',
    '\u{a66}',
    '\u{ae6}',
    '\u{b66}',
    '\u{be6}',
    '\u{c66}',
    '\u{ce6}',
    '\u{d66}',
    '\u{de6}',
    '\u{e50}',
    '\u{ed0}',
    '\u{f20}',
    '\u{1040}',
    '\u{1090}',
    '\u{17e0}',
    '\u{1810}',
    '\u{1946}',
    '\u{19d0}',
    '\u{1a80}',
    '\u{1a90}',
    '\u{1b50}',
    '\u{1bb0}',
    '\u{1c40}',
    '\u{1c50}',
    '\u{a620}',
    '\u{a8d0}',
    '\u{a900}',
    '\u{a9d0}',
    '\u{a9f0}',
    '\u{aa50}',
    '\u{abf0}',
    '\u{ff10}',
    '\u{104a0}',
    '\u{10d30}',
    '\u{10d40}',
    '\u{11066}',
    '\u{110f0}',
    '\u{11136}',
    '\u{111d0}',
    '\u{112f0}',
    '\u{11450}',
    '\u{114d0}',
    '\u{11650}',
    '\u{116c0}',
    '\u{116d0}',
    '\u{116da}',
    '\u{11730}',
    '\u{118e0}',
    '\u{11950}',
    '\u{11bf0}',
    '\u{11c50}',
    '\u{11d50}',
    '\u{11da0}',
    '\u{11de0}',
    '\u{11f50}',
    '\u{16130}',
    '\u{16a60}',
    '\u{16ac0}',
    '\u{16b50}',
    '\u{16d70}',
    '\u{1ccf0}',
    '\u{1d7ce}',
    '\u{1d7d8}',
    '\u{1d7e2}',
    '\u{1d7ec}',
    '\u{1d7f6}',
    '\u{1e140}',
    '\u{1e2f0}',
    '\u{1e4f0}',
    '\u{1e5f1}',
    '\u{1e950}',
    '\u{1fbf0}',
];

/// The ASCII digit that `c` is; `None` where it is no decimal digit.
pub(super) fn to_ascii(c: char) -> Option<char> {
    let run = ZEROS.partition_point(|zero| *zero <= c);
    let zero = *ZEROS.get(run.checked_sub(1)?)?;
    char::from_digit(u32::from(c) - u32::from(zero), 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decimal_digit_of_unicode_is_known_and_nothing_else() -> Result<(), regex::Error> {
        let digit = regex::Regex::new(r"^\d$")?;
        for c in '\0'..=char::MAX {
            // The newest runs may be newer than the other table.
            let newer = matches!(c, '\u{11de0}'..='\u{11de9}');
            assert!(newer || to_ascii(c).is_some() == digit.is_match(&c.to_string()), "{:x}", u32::from(c));
        }
        Ok(())
    }

    #[test]
    fn a_digit_has_the_same_value_in_every_script() {
        for (given, ascii) in [('7', '7'), ('٤', '4'), ('۹', '9'), ('०', '0'), ('７', '7'), ('𝟗', '9')]
        {
            assert_eq!(to_ascii(given), Some(ascii), "{given}");
        }
        for c in ['a', ' ', '²', '①', '〇', '一', '\0', char::MAX] {
            assert_eq!(to_ascii(c), None, "{c}");
        }
    }
}
