//! Randomness and derivations under the server's key.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use threepid_domain::model::{
    AccessToken, Address, ClientSecret, Code, DeviceId, Generation, KeyedHash, LeaseId, MessageId, Sid,
    Token, UserId,
};
use threepid_domain::ports::Secrets;

use super::{ServerKey, hex, random};

/// [`Secrets`] through ring: ids of 128 random bits, HMAC-SHA-256 for what is derived.
///
/// Before the random bits of what becomes a row stands the time, in 48 bits, so that the keys of rows which are added after
/// each other are beside each other: a database changes few pages of its index then instead of one for each row.
pub struct RingSecrets {
    random: SystemRandom,
    tokens: hmac::Key,
    codes: hmac::Key,
    sessions: hmac::Key,
    addresses: hmac::Key,
    access_tokens: hmac::Key,
    probes: hmac::Key,
}

impl RingSecrets {
    /// Secrets under `key`: the same key gives the same derivations, in every instance and after every restart.
    pub fn new(key: &ServerKey) -> Self {
        Self {
            random: SystemRandom::new(),
            tokens: key.key_for("token"),
            codes: key.key_for("code"),
            sessions: key.key_for("session"),
            addresses: key.key_for("address"),
            access_tokens: key.key_for("access-token"),
            probes: key.key_for("probe-device"),
        }
    }

    /// A new access token for a local account: 256 random bits behind a prefix by which leaked ones can be found.
    pub fn new_access_token(&self) -> AccessToken {
        AccessToken::new(format!("threepid_{}", URL_SAFE_NO_PAD.encode(random::<32>(&self.random))))
    }

    /// What a local account's access token is kept as.
    pub fn access_token_hash(&self, token: &AccessToken) -> KeyedHash {
        hash(&self.access_tokens, &[token.expose().as_bytes()])
    }

    /// A device that cannot exist: 128 bits that nobody can guess, the same for a user and session.
    pub fn probe_device_id(&self, user: &UserId, sid: &Sid) -> DeviceId {
        let tag = hash(&self.probes, &[user.as_str().as_bytes(), sid.as_str().as_bytes()]);
        DeviceId(format!("threepid-{}", hex(tag.as_bytes().get(..16).unwrap_or_default())))
    }

    /// A new challenge's session, for those that this server asks itself: 128 random bits.
    pub fn new_challenge_session(&self) -> String {
        self.new_id()
    }

    /// A salt for a password: 128 random bits.
    pub fn new_salt(&self) -> [u8; 16] {
        random(&self.random)
    }

    fn new_id(&self) -> String {
        hex(&random::<16>(&self.random))
    }

    fn new_id_in_order(&self) -> String {
        // Not the port's clock: it is for order alone, and whoever is given the id has just asked for it.
        let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        format!("{:012x}{}", since_epoch & 0xffff_ffff_ffff, self.new_id())
    }
}

impl std::fmt::Debug for RingSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RingSecrets(…)")
    }
}

impl Secrets for RingSecrets {
    fn new_sid(&self) -> Sid {
        Sid::new(self.new_id_in_order())
    }

    fn new_message_id(&self) -> MessageId {
        MessageId::new(self.new_id_in_order())
    }

    fn new_lease_id(&self) -> LeaseId {
        LeaseId::new(self.new_id())
    }

    fn jitter(&self) -> f64 {
        // The 32 bits of a u32 fit an f64 exactly, so the quotient stays below 1.
        f64::from(u32::from_be_bytes(random(&self.random))) / (f64::from(u32::MAX) + 1.0)
    }

    // 128 bits in hexadecimal: the token ends the link, and a link finder may leave out a `-` or `_` that comes last.
    fn token(&self, sid: &Sid, generation: Generation) -> Token {
        let tag = hash(&self.tokens, &[sid.as_str().as_bytes(), &generation.0.to_be_bytes()]);
        Token::new(hex(tag.as_bytes().get(..16).unwrap_or_default()))
    }

    // Bits that would make some codes likelier are thrown away, and the next ones taken.
    fn code(&self, sid: &Sid, generation: Generation) -> Code {
        let mut round = 0_u32;
        loop {
            let parts = [sid.as_str().as_bytes(), &generation.0.to_be_bytes(), &round.to_be_bytes()];
            let mut bits = [0; 8];
            bits.copy_from_slice(&hash(&self.codes, &parts).as_bytes()[..8]);
            match Code::from_bits(u64::from_be_bytes(bits)) {
                Some(code) => return code,
                None => round += 1,
            }
        }
    }

    fn session_key(&self, address: &Address, client_secret: &ClientSecret) -> KeyedHash {
        let parts = [
            address.medium().as_str().as_bytes(),
            address.as_str().as_bytes(),
            client_secret.expose().as_bytes(),
        ];
        hash(&self.sessions, &parts)
    }

    fn address_key(&self, address: &Address) -> KeyedHash {
        hash(&self.addresses, &[address.medium().as_str().as_bytes(), address.as_str().as_bytes()])
    }
}

/// Each part is preceded by its length in 8 bytes, so that none can lend its end to the next.
fn hash(key: &hmac::Key, parts: &[&[u8]]) -> KeyedHash {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.sign().as_ref());
    KeyedHash::new(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

    use std::collections::HashSet;

    use threepid_domain::model::Medium;

    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn secrets() -> RingSecrets {
        RingSecrets::new(&ServerKey::parse(KEY).unwrap())
    }

    fn email(text: &str) -> Address {
        Address::parse(Medium::Email, text).unwrap()
    }

    fn client_secret(text: &str) -> ClientSecret {
        ClientSecret::parse(text).unwrap()
    }

    // The values were computed by another implementation (Python's hmac). They may never change: links that are on
    // their way and sessions that are stored depend on them.
    #[test]
    fn derivations_are_the_same_after_every_restart() {
        let alice = email("alice@example.org");
        assert_eq!(ServerKey::parse(KEY).unwrap().fingerprint(), "f7a26ea550072ab6");
        assert_eq!(
            secrets().token(&Sid::new("s1"), Generation(1)).expose(),
            "227cf6df698ffe56934a5f0b9d6fb9cf"
        );
        assert_eq!(secrets().code(&Sid::new("s1"), Generation(1)).expose(), "484079");
        assert_eq!(
            secrets().session_key(&alice, &client_secret("monkeys")).to_hex(),
            "5545c26daf0190728df3572f8a1f71b795f534d5124442034c5ac96086856484"
        );
        assert_eq!(
            secrets().address_key(&alice).to_hex(),
            "74f60815e9f1718ac3960ee0b4ba6d49bac1aaae8202446170a85c5f09036021"
        );
        assert_eq!(
            secrets().access_token_hash(&AccessToken::new("t")).to_hex(),
            "7f1f6fcc00366b3ac3e4d39209ecdb6e5f6e6251de84c2572b07ab777054febc"
        );
    }

    #[test]
    fn a_probe_is_stable_for_user_and_session_and_differs_for_every_other() {
        let (alice, bob) = (UserId::parse("@alice:b").unwrap(), UserId::parse("@bob:b").unwrap());
        let probe = |secrets: &RingSecrets, user, sid| secrets.probe_device_id(user, &Sid::new(sid));
        let first = probe(&secrets(), &alice, "s1");
        assert_eq!(first, probe(&secrets(), &alice, "s1"));
        assert!(first.0.len() == "threepid-".len() + 32);
        let other = RingSecrets::new(&ServerKey::generate());
        for another in
            [probe(&secrets(), &bob, "s1"), probe(&secrets(), &alice, "s2"), probe(&other, &alice, "s1")]
        {
            assert_ne!(first, another);
        }
    }

    #[test]
    fn another_key_derives_something_else() {
        let other = RingSecrets::new(&ServerKey::generate());
        let (sid, alice) = (Sid::new("s1"), email("alice@example.org"));
        assert_ne!(other.token(&sid, Generation(1)), secrets().token(&sid, Generation(1)));
        assert_ne!(other.address_key(&alice), secrets().address_key(&alice));
    }

    #[test]
    fn purposes_share_no_derivation() {
        let secrets = secrets();
        let keys = [
            &secrets.tokens,
            &secrets.codes,
            &secrets.sessions,
            &secrets.addresses,
            &secrets.access_tokens,
            &secrets.probes,
        ];
        let hashes: HashSet<String> = keys.iter().map(|key| hash(key, &[b"same"]).to_hex()).collect();
        assert_eq!(hashes.len(), keys.len());
    }

    #[test]
    fn no_part_of_an_input_can_pass_for_another() {
        let secrets = secrets();
        let one = secrets.session_key(&email("a@example.orgb"), &client_secret("c"));
        let other = secrets.session_key(&email("a@example.org"), &client_secret("bc"));
        assert_ne!(one, other);
        assert_ne!(hash(&secrets.sessions, &[b"ab", b"c"]), hash(&secrets.sessions, &[b"a", b"bc"]));
        assert_ne!(hash(&secrets.sessions, &[b"ab"]), hash(&secrets.sessions, &[b"ab", b""]));
        let number = Address::parse(Medium::Msisdn, "441234567").unwrap();
        assert_ne!(secrets.address_key(&number), secrets.address_key(&email("441234567@example.org")));
    }

    #[test]
    fn each_generation_of_each_session_has_its_own_token() {
        let secrets = secrets();
        let tokens: HashSet<String> = ["s1", "s2"]
            .iter()
            .flat_map(|sid| {
                (1..=50).map(|n| secrets.token(&Sid::new(*sid), Generation(n)).expose().to_owned())
            })
            .collect();
        assert_eq!(tokens.len(), 100);
        assert!(tokens.iter().all(|token| token.len() == 32 && token.bytes().all(|b| b.is_ascii_hexdigit())));
    }

    #[test]
    fn codes_are_spread_evenly_over_a_million() {
        let secrets = secrets();
        let mut tenths = [0_u32; 10];
        let mut seen = HashSet::new();
        for n in 1..=20_000 {
            let code = secrets.code(&Sid::new("s1"), Generation(n));
            assert!(code.expose().len() == 6 && code.expose().bytes().all(|byte| byte.is_ascii_digit()));
            tenths[usize::from(code.expose().as_bytes()[0] - b'0')] += 1;
            seen.insert(code.expose().to_owned());
        }
        // Of 20 000 drawn from a million, 19 801 differ on average; each first digit comes 2 000 times, give or take 42.
        assert!((19_700..19_900).contains(&seen.len()), "{}", seen.len());
        assert!(tenths.iter().all(|count| (1_800..2_200).contains(count)), "{tenths:?}");
        let other = RingSecrets::new(&ServerKey::generate());
        let of = |secrets: &RingSecrets| {
            (1..=3)
                .map(|n| secrets.code(&Sid::new("s1"), Generation(n)).expose().to_owned())
                .collect::<Vec<_>>()
        };
        assert_ne!(of(&secrets), of(&other));
    }

    #[test]
    fn ids_are_well_formed_and_never_the_same() {
        let secrets = secrets();
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let (sid, message) = (secrets.new_sid(), secrets.new_message_id());
            assert!(sid.is_well_formed() && sid.as_str().len() == 44);
            assert!(message.as_str().bytes().all(|b| b.is_ascii_alphanumeric()));
            let access_token = secrets.new_access_token().expose().to_owned();
            let ids = [sid.as_str(), message.as_str(), secrets.new_lease_id().as_str(), &access_token]
                .map(str::to_owned);
            assert!(ids.into_iter().all(|id| seen.insert(id)));
        }
    }

    #[test]
    fn what_becomes_a_row_is_in_the_order_of_time() {
        let secrets = secrets();
        let earlier: Vec<_> = (0..100).map(|_| secrets.new_sid()).collect();
        let begun = SystemTime::now();
        while begun.elapsed().unwrap_or_default().as_millis() < 2 {
            std::thread::yield_now();
        }
        let later = (secrets.new_sid(), secrets.new_message_id());
        for sid in &earlier {
            assert!(sid.as_str() < later.0.as_str() && sid.as_str() < later.1.as_str(), "{sid:?} {later:?}");
        }
        let random: HashSet<_> = earlier.iter().map(|sid| sid.as_str().split_at(12).1).collect();
        assert_eq!(random.len(), 100);
    }

    #[test]
    fn jitter_spreads_over_zero_to_one() {
        let secrets = secrets();
        let drawn: Vec<f64> = (0..1000).map(|_| secrets.jitter()).collect();
        assert!(drawn.iter().all(|x| (0.0..1.0).contains(x)));
        assert!(drawn.iter().any(|x| *x < 0.1) && drawn.iter().any(|x| *x > 0.9));
    }

    #[test]
    fn an_access_token_is_found_again_by_its_hash() {
        let secrets = secrets();
        let token = secrets.new_access_token();
        assert_eq!(
            secrets.access_token_hash(&token),
            secrets.access_token_hash(&AccessToken::new(token.expose()))
        );
        assert_ne!(secrets.access_token_hash(&token), secrets.access_token_hash(&AccessToken::new("other")));
    }
}
