//! `[limits]`: one section or setting for each limit, under the limit's name.

use std::time::Duration;

use threepid_domain::ports::Limit;

use super::checked::Judge;
use super::declare::settings;

/// A limit that takes longer to come back is no rate.
const LONGEST_REFILL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

settings! {
    /// `[limits]`
    Limits {
        /// How many clients, addresses, sessions and accounts each limit remembers in memory, about 150 bytes each. At
        /// least 2.
        max_subjects: usize = 100_000,
        /// How many validation mails are sent in any hour, whoever asks for them, so that a flood from many addresses
        /// cannot cost your domain its good name: a quarter of them at once, the others evenly. Requests for more are
        /// answered with 429, and the log says so once an hour. 0 is no bound; else at least 2. Instances on one
        /// database count together.
        mails_per_hour: u32 = 1000,
        /// The same for validation SMS, which cost money each.
        sms_per_hour: u32 = 100,
    }
    sections {
        /// Requests for a token from one client address.
        request_token_per_client: RequestTokenPerClient,
        /// Requests for a token to one address to be proven. Instances on one database count together, and a restart
        /// forgets nothing.
        request_token_per_address: RequestTokenPerAddress,
        /// Tokens that are given back from one client address, by the page and as JSON, right ones included.
        submit_per_client: SubmitPerClient,
        /// Tokens that are given back to one session, right ones included. Five wrong ones end it anyway.
        submit_per_session: SubmitPerSession,
        /// Codes that are given back for one address, in whichever of its sessions; a right one does not count. Codes have
        /// six digits, so this is what keeps guessing hopeless. Instances on one database count together, and a restart
        /// forgets nothing.
        codes_per_address: CodesPerAddress,
        /// With `hide_in_use`: messages that tell whoever has an address that somebody asked to add it. What is beyond is not
        /// sent, and nobody who asks can tell. Instances on one database count together, and a restart forgets nothing.
        in_use_notice_per_address: InUseNoticePerAddress,
        /// Access tokens from one client address that are nobody's. Who is over it is refused before the homeserver is
        /// asked.
        failed_tokens_per_client: FailedTokensPerClient,
        /// Wrong answers to the question who is asking, for one account, before an address is added. Instances on one
        /// database count together, and a restart forgets nothing.
        failed_reauthentication_per_account: FailedReauthenticationPerAccount,
    }
}

/// Declares a rate with its defaults.
macro_rules! rates {
    ($( $(#[doc = $doc:literal])+ $name:ident = $per_second:literal, $burst:literal; )+) => {$(
        settings! {
            $(#[doc = $doc])+
            $name {
                /// How many a second, in the long run. More than zero.
                per_second: f64 = $per_second,
                /// How many at once, before that rate applies. At least 1.
                burst: u32 = $burst,
            }
        }

        impl $name {
            fn rate(&self) -> Allowance {
                Allowance::Rate { per_second: self.per_second, burst: self.burst }
            }
        }
    )+};
}

rates! {
    /// As Synapse has it.
    RequestTokenPerClient = 0.003, 5;
    /// As Synapse has it.
    RequestTokenPerAddress = 0.003, 5;
    /// Room for many people behind one address.
    SubmitPerClient = 0.5, 30;
    /// Room for somebody who mistypes.
    SubmitPerSession = 0.1, 10;
    /// Ten a day. Whoever guesses for a whole year is right with a chance of 0.4 %.
    CodesPerAddress = 0.000116, 10;
    /// One a day.
    InUseNoticePerAddress = 0.0000115, 1;
    /// Room for many people behind one address whose tokens end at once.
    FailedTokensPerClient = 0.2, 30;
    /// As Synapse has it for wrong passwords.
    FailedReauthenticationPerAccount = 0.17, 3;
}

/// How much a limit allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Allowance {
    /// So many a second, and so many at once.
    Rate { per_second: f64, burst: u32 },
    /// So many in any hour; 0 is no bound.
    PerHour(u32),
}

impl Limits {
    /// What is allowed under a limit.
    pub(crate) fn allowance(&self, limit: Limit) -> Allowance {
        match limit {
            Limit::RequestTokenPerClient => self.request_token_per_client.rate(),
            Limit::RequestTokenPerAddress => self.request_token_per_address.rate(),
            Limit::MailsInAll => Allowance::PerHour(self.mails_per_hour),
            Limit::SmsInAll => Allowance::PerHour(self.sms_per_hour),
            Limit::SubmitPerClient => self.submit_per_client.rate(),
            Limit::SubmitPerSession => self.submit_per_session.rate(),
            Limit::CodesPerAddress => self.codes_per_address.rate(),
            Limit::InUseNoticePerAddress => self.in_use_notice_per_address.rate(),
            Limit::FailedTokensPerClient => self.failed_tokens_per_client.rate(),
            Limit::FailedReauthenticationPerAccount => self.failed_reauthentication_per_account.rate(),
        }
    }
}

impl Judge {
    pub(super) fn limits(&mut self, limits: &Limits) {
        self.must(limits.max_subjects >= 2, "limits.max_subjects", "must be at least 2");
        for limit in Limit::ALL {
            let name = format!("limits.{}", limit.name());
            match limits.allowance(*limit) {
                Allowance::Rate { per_second, burst } => self.rate(&name, per_second, burst),
                Allowance::PerHour(most) => self.must(most != 1, &name, "must be 0 (no bound) or at least 2"),
            }
        }
    }

    fn rate(&mut self, section: &str, per_second: f64, burst: u32) {
        let sound = per_second.is_finite() && per_second > 0.0;
        self.must(sound, &format!("{section}.per_second"), "must be more than 0, such as 0.003");
        self.must(burst > 0, &format!("{section}.burst"), "must be at least 1");
        let refill = f64::from(burst) / per_second;
        self.must(
            !sound || refill <= LONGEST_REFILL.as_secs_f64(),
            &format!("{section}.per_second"),
            "is so low that burst takes more than a year to come back",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::declare::{Describe, Section};
    use super::*;

    #[test]
    fn each_limit_is_a_setting_of_its_name() {
        let mut sections: Vec<Section> = Vec::new();
        Limits::describe(vec!["limits"], &[], &mut sections);
        for limit in Limit::ALL {
            let is_section = sections.iter().any(|section| section.path == ["limits", limit.name()]);
            let is_setting = sections[0].entries.iter().any(|entry| entry.name == limit.name());
            assert!(is_section || is_setting, "{}", limit.name());
        }
    }
}
