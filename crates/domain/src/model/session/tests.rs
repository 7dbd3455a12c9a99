#![expect(clippy::unwrap_used, reason = "a test that meets nonsense of its own fails")]

use super::*;
use crate::ports::Secrets;
use crate::testing::{CountedSecrets, FixedClock, Fixture};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(FixedClock::START.as_ms() + ms)
}

fn lifetimes() -> Lifetimes {
    Lifetimes::default()
}

fn token(generation: u32) -> Token {
    derive(Generation(generation))
}

fn derive(generation: Generation) -> Token {
    CountedSecrets::default().token(&Sid::new("sid"), generation)
}

fn wrong() -> Token {
    Token::new("wrong")
}

fn attempt(count: i128) -> SendAttempt {
    Fixture::attempt(count)
}

fn alice() -> UserId {
    Fixture::user("@alice:example.org")
}

fn bob() -> UserId {
    Fixture::user("@bob:example.org")
}

/// Opened at 0 with attempt 1; its token ends after an hour.
fn pending() -> ValidationSession {
    let address = Fixture::address("alice@example.org");
    let key = KeyedHash::new([1; 32]);
    ValidationSession::open(Sid::new("sid"), key, address, attempt(1), None, at(0), &lifetimes())
}

/// Proven at 0.
fn validated() -> ValidationSession {
    let mut session = pending();
    session.submit(&token(1), derive, at(0), &lifetimes()).unwrap();
    session
}

/// Spent by Alice at 0.
fn consumed() -> ValidationSession {
    let mut session = validated();
    session.spend(&alice(), at(0), &lifetimes()).unwrap();
    session
}

fn burnt() -> ValidationSession {
    let mut session = pending();
    for _ in 0..WRONG_TOKENS_THAT_BURN {
        assert_eq!(session.submit(&wrong(), derive, at(0), &lifetimes()), Err(SubmitRefusal::Wrong));
    }
    session
}

#[test]
fn a_new_session_is_pending_and_current_with_one_token() {
    let session = pending();
    let record = session.record();
    assert_eq!(record.state, SessionState::Pending { wrong_tokens: 0 });
    assert_eq!((record.current, record.revision, record.created_at), (true, 0, at(0)));
    assert_eq!(
        record.tokens,
        [IssuedToken {
            generation: Generation(1),
            expires_at: at(HOUR),
            next_link: None,
            with_code: false,
            withheld: false,
        }]
    );
    assert!(session.was_opened_under(&KeyedHash::new([1; 32])));
    assert!(!session.was_opened_under(&KeyedHash::new([2; 32])));
}

fn code(generation: u32) -> Code {
    derive_code(Generation(generation))
}

fn derive_code(generation: Generation) -> Code {
    CountedSecrets::default().code(&Sid::new("sid"), generation)
}

#[test]
fn a_code_is_good_only_in_the_newest_message_and_only_if_that_carried_one() {
    let mut session = pending();
    assert!(!session.has_code());
    assert_eq!(session.submit_code(&code(1), derive_code, at(0), &lifetimes()), Err(SubmitRefusal::Wrong));
    session.send_code();
    assert!(session.has_code());
    session.request_again(attempt(2), None, at(1), &lifetimes()).unwrap();
    assert!(!session.has_code(), "each message is asked anew");
    for generation in [1, 2] {
        let answer = session.submit_code(&code(generation), derive_code, at(1), &lifetimes());
        assert_eq!(answer, Err(SubmitRefusal::Wrong), "{generation}");
    }
    session.send_code();
    assert_eq!(session.record().tokens.iter().map(|token| token.with_code).collect::<Vec<_>>(), [true, true]);
    assert_eq!(session.submit_code(&code(1), derive_code, at(1), &lifetimes()), Err(SubmitRefusal::Wrong));
    assert_eq!(session.record().state, SessionState::Pending { wrong_tokens: 4 });
    let submitted = session.submit_code(&code(2), derive_code, at(1), &lifetimes()).unwrap();
    assert!(submitted.changed);
    assert!(session.submit(&token(1), derive, at(1), &lifetimes()).is_ok(), "older links stay good");
}

#[test]
fn a_code_ends_with_its_token_and_with_its_session() {
    let with_code = |mut session: ValidationSession| {
        session.send_code();
        session
    };
    for (session, ms, expected) in [
        (pending(), HOUR - 1, Ok(true)),
        (pending(), HOUR, Err(SubmitRefusal::Expired)),
        (validated(), 1, Ok(false)),
        (consumed(), 1, Ok(false)),
        (burnt(), 0, Err(SubmitRefusal::Burnt)),
    ] {
        let answer = with_code(session).submit_code(&code(1), derive_code, at(ms), &lifetimes());
        assert_eq!(answer.map(|submitted| submitted.changed), expected, "{ms}");
    }
}

#[test]
fn a_record_that_says_nothing_of_codes_is_of_messages_without_and_is_written_as_it_was() {
    let written = r#"{"generation":1,"expires_at":1700003600000,"next_link":null}"#;
    let token: IssuedToken = serde_json::from_str(written).unwrap();
    assert!(!token.with_code);
    assert_eq!(serde_json::to_string(&token).unwrap(), written);
    let with_code = IssuedToken { with_code: true, ..token };
    assert!(serde_json::to_string(&with_code).unwrap().contains(r#""with_code":true"#));
}

#[test]
fn that_a_token_was_told_to_nobody_is_written_and_a_record_that_says_nothing_is_of_one_that_was_sent() {
    let written = r#"{"generation":1,"expires_at":1700003600000,"next_link":null}"#;
    let sent: IssuedToken = serde_json::from_str(written).unwrap();
    assert!(!sent.withheld);
    let withheld = IssuedToken { withheld: true, ..sent };
    let written = serde_json::to_string(&withheld).unwrap();
    assert!(written.contains(r#""withheld":true"#));
    assert_eq!(serde_json::from_str::<IssuedToken>(&written).unwrap(), withheld);
}

#[test]
fn a_token_that_was_told_to_nobody_is_wrong_and_burns_as_any() {
    let mut withheld = pending();
    withheld.withhold_token();
    for nth in 1..=WRONG_TOKENS_THAT_BURN {
        let answer = withheld.submit(&derive(Generation(1)), derive, at(0), &lifetimes());
        assert_eq!(answer, Err(SubmitRefusal::Wrong), "{nth}");
    }
    assert_eq!(withheld.record().state, SessionState::Burnt);
}

#[test]
fn a_request_again_is_answered_by_the_state() {
    let again = |mut session: ValidationSession, count, ms| {
        let before = session.clone();
        let answer = session.request_again(attempt(count), None, at(ms), &lifetimes());
        let sent = answer.map(|token| token.map(|token| (token.generation.0, token.expires_at)));
        assert_eq!(session != before, matches!(sent, Ok(Some(_))), "it changes only where it sends");
        sent
    };
    let next = Ok(Some((2, at(HOUR + 7))));
    for (session, count, ms, expected) in [
        (pending(), 2, 7, next),
        (pending(), (1 << 53) - 1, 7, next),
        (pending(), 1, 7, Ok(None)),
        (pending(), 0, 7, Ok(None)),
        (pending(), 1, HOUR - 1, Ok(None)),
        (pending(), 2, HOUR - 1, Ok(Some((2, at(2 * HOUR - 1))))),
        (pending(), 2, HOUR, Err(NoMoreSends)),
        (pending(), 1, HOUR, Err(NoMoreSends)),
        (validated(), 2, 7, Ok(None)),
        (validated(), 2, HOUR, Ok(None)),
        (validated(), 2, DAY - 1, Ok(None)),
        (validated(), 2, DAY, Err(NoMoreSends)),
        (consumed(), 2, 0, Err(NoMoreSends)),
        (burnt(), 2, 0, Err(NoMoreSends)),
    ] {
        let state = session.record().state.clone();
        assert_eq!(again(session, count, ms), expected, "{state:?}, attempt {count}, {ms} ms");
    }
}

#[test]
fn a_token_is_judged_by_the_state() {
    let judge = |mut session: ValidationSession, token: Token, ms| {
        let answer = session.submit(&token, derive, at(ms), &lifetimes());
        (answer.map(|submitted| submitted.changed), session.record().state.clone())
    };
    let wrongs = |wrong_tokens| SessionState::Pending { wrong_tokens };
    let proven = |ms| SessionState::Validated { at: at(ms) };
    let spent = SessionState::Consumed { validated_at: at(0), by: alice() };
    for (session, token, ms, expected) in [
        (pending(), token(1), 7, (Ok(true), proven(7))),
        (pending(), token(1), HOUR - 1, (Ok(true), proven(HOUR - 1))),
        (pending(), token(1), HOUR, (Err(SubmitRefusal::Expired), wrongs(0))),
        (pending(), wrong(), 7, (Err(SubmitRefusal::Wrong), wrongs(1))),
        (pending(), Token::new(""), 7, (Err(SubmitRefusal::Wrong), wrongs(1))),
        (pending(), token(2), 7, (Err(SubmitRefusal::Wrong), wrongs(1))),
        (validated(), token(1), HOUR - 1, (Ok(false), proven(0))),
        (validated(), token(1), HOUR, (Err(SubmitRefusal::Expired), proven(0))),
        (validated(), wrong(), 7, (Err(SubmitRefusal::Wrong), proven(0))),
        (consumed(), token(1), 7, (Ok(false), spent.clone())),
        (consumed(), token(1), HOUR, (Err(SubmitRefusal::Expired), spent.clone())),
        (consumed(), wrong(), 7, (Err(SubmitRefusal::Wrong), spent)),
        (burnt(), token(1), 7, (Err(SubmitRefusal::Burnt), SessionState::Burnt)),
        (burnt(), wrong(), 7, (Err(SubmitRefusal::Burnt), SessionState::Burnt)),
    ] {
        let state = session.record().state.clone();
        assert_eq!(judge(session, token, ms), expected, "{state:?}, {ms} ms");
    }
}

#[test]
fn a_proof_is_spent_by_the_state() {
    let proof = Proof { address: Fixture::address("alice@example.org"), validated_at: at(0) };
    for (session, by, ms, expected) in [
        (pending(), alice(), 7, Err(SpendRefusal::NotValidated)),
        (burnt(), alice(), 7, Err(SpendRefusal::NotValidated)),
        (validated(), alice(), 7, Ok(proof.clone())),
        (validated(), bob(), DAY - 1, Ok(proof)),
        (validated(), alice(), DAY, Err(SpendRefusal::Expired)),
        (consumed(), alice(), 7, Err(SpendRefusal::SpentByCaller)),
        (consumed(), alice(), 9 * DAY, Err(SpendRefusal::SpentByCaller)),
        (consumed(), bob(), 7, Err(SpendRefusal::Spent)),
    ] {
        let (before, mut after) = (session.clone(), session);
        let answer = after.spend(&by, at(ms), &lifetimes());
        assert_eq!(answer, expected, "{:?} by {by}, {ms} ms", before.record().state);
        assert_eq!(after != before, answer.is_ok(), "a refusal changes nothing");
        if answer.is_ok() {
            assert_eq!(after.record().state, SessionState::Consumed { validated_at: at(0), by });
        }
    }
}

#[test]
fn a_session_ends_at_its_time_and_not_a_millisecond_before() {
    for (session, ms, ended) in [
        (pending(), HOUR - 1, false),
        (pending(), HOUR, true),
        (validated(), DAY - 1, false),
        (validated(), DAY, true),
        (consumed(), 0, true),
        (burnt(), 0, true),
    ] {
        assert_eq!(session.has_ended(at(ms), &lifetimes()), ended, "{:?}, {ms} ms", session.record().state);
    }
}

#[test]
fn a_superseded_session_keeps_its_tokens_and_its_proof() {
    let mut session = pending();
    session.supersede();
    assert!(!session.record().current);
    assert!(session.submit(&token(1), derive, at(7), &lifetimes()).unwrap().changed);
    assert!(session.spend(&alice(), at(7), &lifetimes()).is_ok());
}

#[test]
fn the_fifth_wrong_token_burns_and_the_fourth_does_not() {
    let mut session = pending();
    for wrong_tokens in 1..WRONG_TOKENS_THAT_BURN {
        assert_eq!(session.submit(&wrong(), derive, at(0), &lifetimes()), Err(SubmitRefusal::Wrong));
        assert_eq!(session.record().state, SessionState::Pending { wrong_tokens });
    }
    let mut lucky = session.clone();
    assert!(lucky.submit(&token(1), derive, at(0), &lifetimes()).is_ok());
    assert_eq!(session.submit(&wrong(), derive, at(0), &lifetimes()), Err(SubmitRefusal::Wrong));
    assert_eq!(session.record().state, SessionState::Burnt);
}

#[test]
fn each_token_leads_where_its_own_request_said() {
    let link = |text| Some(NextLink::parse(text).unwrap());
    let mut session = pending();
    session.request_again(attempt(2), link("https://two.example"), at(1), &lifetimes()).unwrap();
    session.request_again(attempt(3), link("https://three.example"), at(2), &lifetimes()).unwrap();
    for (generation, next_link) in
        [(1, None), (2, link("https://two.example")), (3, link("https://three.example"))]
    {
        let mut session = session.clone();
        let submitted = session.submit(&token(generation), derive, at(3), &lifetimes()).unwrap();
        assert_eq!(submitted.next_link, next_link);
    }
}

#[test]
fn however_often_it_sends_the_tokens_that_are_good_stay_good_and_the_list_stays_short() {
    let mut session = pending();
    let minute = HOUR / 60;
    for count in 2..=500_u64 {
        let now = at((count - 1) * minute);
        session.request_again(attempt(count.into()), None, now, &lifetimes()).unwrap().unwrap();
        let tokens = &session.record().tokens;
        assert!(tokens.len() <= 62, "{} tokens at {count}", tokens.len());
        let good = tokens.iter().filter(|token| now < token.expires_at).count();
        assert_eq!(u64::try_from(good).unwrap(), count.min(60), "every token of the last hour");
        assert!(tokens.is_sorted_by_key(|token| token.generation));
    }
}

#[test]
fn a_send_attempt_is_an_integer_of_53_bits() {
    for good in [0, 1, (1 << 53) - 1] {
        assert_eq!(SendAttempt::new(good).map(|attempt| i128::from(attempt.get())), Ok(good));
    }
    for bad in [-1, 1 << 53, i128::MAX, i128::MIN] {
        assert_eq!(SendAttempt::new(bad), Err(SendAttemptOutOfRange));
    }
}

mod generated {
    use proptest::prelude::*;

    use super::*;

    /// What happens to a session.
    #[derive(Clone, Debug)]
    enum Step {
        Request(u8),
        SubmitIssued(u8),
        SubmitWrong,
        Spend(bool),
        Supersede,
        /// Milliseconds, backwards too.
        Clock(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let hour = i64::try_from(HOUR).unwrap();
        prop_oneof![
            4 => (0..12_u8).prop_map(Step::Request),
            4 => any::<u8>().prop_map(Step::SubmitIssued),
            2 => Just(Step::SubmitWrong),
            3 => any::<bool>().prop_map(Step::Spend),
            1 => Just(Step::Supersede),
            3 => prop_oneof![
                Just(1_i64), Just(-1), Just(hour), Just(hour - 1), Just(24 * hour), Just(24 * hour - 1),
                -2 * hour..30 * hour,
            ]
            .prop_map(Step::Clock),
        ]
    }

    /// What the rules say, written down once more: times and flags instead of states.
    #[derive(Debug, Default)]
    struct Model {
        /// When each token ends; the generation is the place, counted from 1.
        ends: Vec<u64>,
        highest_attempt: u8,
        wrongs: u8,
        proven_at: Option<u64>,
        spent_by: Option<bool>,
    }

    impl Model {
        fn is_burnt(&self) -> bool {
            self.wrongs >= 5
        }

        fn has_ended(&self, now: u64) -> bool {
            let time_is_up = match self.proven_at {
                Some(proven) => now >= proven + DAY,
                None => self.ends.last().is_none_or(|end| now >= *end),
            };
            self.is_burnt() || self.spent_by.is_some() || time_is_up
        }
    }

    proptest! {
        #[test]
        fn any_order_of_events_follows_the_rules(steps in prop::collection::vec(step(), 1..60)) {
            // Far enough from the epoch to go backwards.
            let mut now = FixedClock::START.as_ms();
            let address = Fixture::address("alice@example.org");
            let key = KeyedHash::new([1; 32]);
            let mut session = ValidationSession::open(
                Sid::new("sid"), key, address, attempt(1), None, Timestamp::from_ms(now), &lifetimes(),
            );
            let mut model = Model { ends: vec![now + HOUR], highest_attempt: 1, ..Model::default() };
            let mut proofs = 0;
            for step in steps {
                let time = Timestamp::from_ms(now);
                match step {
                    Step::Clock(by) => now = now.saturating_add_signed(by),
                    Step::Supersede => session.supersede(),
                    Step::Request(count) => {
                        let answer = session.request_again(attempt(count.into()), None, time, &lifetimes());
                        if model.has_ended(now) {
                            prop_assert_eq!(answer, Err(NoMoreSends));
                        } else if model.proven_at.is_some() || count <= model.highest_attempt {
                            prop_assert_eq!(answer, Ok(None));
                        } else {
                            model.ends.push(now + HOUR);
                            model.highest_attempt = count;
                            let issued = answer.unwrap().unwrap();
                            prop_assert_eq!(usize::try_from(issued.generation.0).unwrap(), model.ends.len());
                        }
                    }
                    Step::SubmitIssued(which) => {
                        let place = usize::from(which) % model.ends.len();
                        let given = token(u32::try_from(place).unwrap() + 1);
                        let answer = session.submit(&given, derive, time, &lifetimes());
                        let too_old = model.spent_by.is_none() && model.proven_at.is_some_and(|at| now >= at + DAY);
                        if model.is_burnt() {
                            prop_assert_eq!(answer, Err(SubmitRefusal::Burnt));
                        } else if now >= model.ends[place] || too_old {
                            prop_assert_eq!(answer, Err(SubmitRefusal::Expired));
                        } else {
                            prop_assert_eq!(answer.map(|ok| ok.changed), Ok(model.proven_at.is_none()));
                            model.proven_at.get_or_insert(now);
                        }
                    }
                    Step::SubmitWrong => {
                        let answer = session.submit(&wrong(), derive, time, &lifetimes());
                        let expected = if model.is_burnt() { SubmitRefusal::Burnt } else { SubmitRefusal::Wrong };
                        prop_assert_eq!(answer, Err(expected));
                        if model.proven_at.is_none() {
                            model.wrongs = (model.wrongs + 1).min(5);
                        }
                    }
                    Step::Spend(by_alice) => {
                        let by = if by_alice { alice() } else { bob() };
                        let answer = session.spend(&by, time, &lifetimes());
                        match (model.spent_by, model.proven_at) {
                            (Some(spender), _) if spender == by_alice => {
                                prop_assert_eq!(answer, Err(SpendRefusal::SpentByCaller));
                            }
                            (Some(_), _) => prop_assert_eq!(answer, Err(SpendRefusal::Spent)),
                            (None, None) => prop_assert_eq!(answer, Err(SpendRefusal::NotValidated)),
                            (None, Some(proven)) if now >= proven + DAY => {
                                prop_assert_eq!(answer, Err(SpendRefusal::Expired));
                            }
                            (None, Some(proven)) => {
                                prop_assert_eq!(answer.map(|proof| proof.validated_at.as_ms()), Ok(proven));
                                model.spent_by = Some(by_alice);
                                proofs += 1;
                            }
                        }
                    }
                }
                let is_burnt = session.record().state == SessionState::Burnt;
                prop_assert_eq!(is_burnt, model.is_burnt(), "burnt never revives");
                prop_assert_eq!(session.has_ended(Timestamp::from_ms(now), &lifetimes()), model.has_ended(now));
                prop_assert!(proofs <= 1, "a proof is spent at most once");
                prop_assert!(session.newest_token().is_some());
            }
        }

        #[test]
        fn no_clock_makes_it_panic(
            times in prop::collection::vec(prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)], 1..20),
            token_ms in any::<u64>(),
            validated_ms in any::<u64>(),
        ) {
            let lifetimes = Lifetimes {
                token: Duration::from_millis(token_ms),
                validated: Duration::from_millis(validated_ms),
            };
            let mut session = pending();
            for (count, ms) in times.into_iter().enumerate() {
                let now = Timestamp::from_ms(ms);
                let count = i128::try_from(count).unwrap();
                let _ = session.request_again(attempt(count), None, now, &lifetimes);
                let was_pending = matches!(session.record().state, SessionState::Pending { .. });
                let submitted = session.submit(&token(1), derive, now, &lifetimes);
                prop_assert_eq!(submitted.is_ok_and(|ok| ok.changed), was_pending
                    && matches!(session.record().state, SessionState::Validated { .. }));
                let _ = session.spend(&alice(), now, &lifetimes);
            }
        }
    }
}
