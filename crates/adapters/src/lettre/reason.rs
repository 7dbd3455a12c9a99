//! Why a mail was not delivered, in words that may be logged and kept.

use std::fmt;

/// Replies of mail servers are longer than anybody reads, and theirs to choose.
const LONGEST: usize = 300;

/// One line without any address: mail servers like to repeat the recipient, and some repeat the sender.
#[derive(Debug)]
pub(super) struct Reason(String);

impl Reason {
    pub(super) fn new(text: &str) -> Self {
        let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        let masked: Vec<&str> = words.map(|word| if names_an_address(word) { "…" } else { word }).collect();
        Self(masked.join(" ").chars().take(LONGEST).collect())
    }
}

/// Also in the spellings of bounce addresses and URLs.
fn names_an_address(word: &str) -> bool {
    word.contains(['@', '＠']) || word.contains("%40") || word.to_ascii_lowercase().contains("=40")
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_told_in_one_line_without_addresses() {
        for (reply, told) in [
            ("550 5.1.1 <alice@example.org>: unknown", "550 5.1.1 … unknown"),
            ("no mailbox\r\nalice@example.org\there", "no mailbox … here"),
            ("see https://mx.example/?to=alice%40example.org", "see …"),
            ("greylisted, try later", "greylisted, try later"),
            ("\u{1b}[31mred", "[31mred"),
        ] {
            assert_eq!(Reason::new(reply).to_string(), told);
        }
        assert_eq!(Reason::new(&"x ".repeat(1000)).to_string().chars().count(), LONGEST);
    }
}
