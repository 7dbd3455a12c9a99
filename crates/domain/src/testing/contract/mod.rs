//! What an adapter owes, as cases that anyone can run.
//!
//! A case is a plain public async function that panics where a MUST of the port's rustdoc is broken. A macro runs every
//! case of a kit, each as one test on a backend of its own:
//!
//! ```
//! use std::sync::Arc;
//! use threepid_domain::testing::MemoryStore;
//! use threepid_domain::testing::contract::Backend;
//!
//! async fn fresh() -> Backend {
//!     let store = Arc::new(MemoryStore::new());
//!     Backend::new(store.clone(), store)
//! }
//!
//! mod store { threepid_domain::store_contract!(super::fresh()); }
//! mod outbox { threepid_domain::outbox_contract!(super::fresh()); }
//! # fn main() {}
//! ```
//!
//! The invoking crate needs tokio with `macros`, `rt-multi-thread` and `time`. Each test ends within 60 s, or fails.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a contract case is a test: a broken promise or a dead backend has to fail it"
)]

pub mod account_records;
pub mod erasures;
pub mod housekeeping;
pub mod identity_server;
pub mod mailer;
pub mod outbox;
pub mod outbox_records;
pub mod rate_limiter;
pub mod sms_sender;
pub mod store;

use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

pub use mailer::{Arrived, Hop, HopMood, Inbox, MailBackend};
pub use rate_limiter::LimiterBackend;
pub use sms_sender::{ArrivedSms, Gateway, GatewayMood, Phones, SmsBackend};

use super::lock;
use crate::ports::{AccountRecords, Erasures, Housekeeping, Outbox, OutboxRecords, Store};

/// A future on the heap.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Starts a task on the runtime of the test, in parallel to others; what it returns ends with the task.
pub type Spawner = fn(BoxFuture<()>) -> BoxFuture<()>;

/// A fresh, empty storage.
pub struct Backend {
    /// Its store.
    pub store: Arc<dyn Store>,
    /// Its outbox, over the same storage.
    pub outbox: Arc<dyn Outbox>,
    /// What removes what has ended, over the same storage; for [`housekeeping_contract!`](crate::housekeeping_contract).
    pub housekeeping: Option<Arc<dyn Housekeeping>>,
    /// The outbox as an operator sees it; for [`outbox_records_contract!`](crate::outbox_records_contract).
    pub records: Option<Arc<dyn OutboxRecords>>,
    /// What knows all that is kept about an account; for
    /// [`account_records_contract!`](crate::account_records_contract).
    pub accounts: Option<Arc<dyn AccountRecords>>,
    /// What erases an account; for [`erasures_contract!`](crate::erasures_contract), which looks up what is left, too.
    pub erasures: Option<Arc<dyn Erasures>>,
    /// What has to live as long as the storage: a temporary folder, a server's handle.
    pub keep: Box<dyn Any + Send + Sync>,
    /// Opens the same storage once more.
    reopen: Box<dyn Fn() -> BoxFuture<Handles> + Send + Sync>,
}

/// One more pair of handles on a backend's storage, as another process would hold them.
pub struct Handles {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The outbox, over the same storage.
    pub outbox: Arc<dyn Outbox>,
}

impl Backend {
    /// A storage that lives and dies with these two.
    pub fn new(store: Arc<dyn Store>, outbox: Arc<dyn Outbox>) -> Self {
        let (again, and_again) = (store.clone(), outbox.clone());
        let reopen = move || -> BoxFuture<Handles> {
            let handles = Handles { store: again.clone(), outbox: and_again.clone() };
            Box::pin(async { handles })
        };
        let (housekeeping, records, accounts, erasures) = (None, None, None, None);
        let (keep, reopen) = (Box::new(()), Box::new(reopen));
        Self { store, outbox, housekeeping, records, accounts, erasures, keep, reopen }
    }

    /// Says what knows all that is kept about an account.
    #[must_use]
    pub fn asked_by(mut self, accounts: Arc<dyn AccountRecords>) -> Self {
        self.accounts = Some(accounts);
        self
    }

    /// Says what erases an account.
    #[must_use]
    pub fn erased_by(mut self, erasures: Arc<dyn Erasures>) -> Self {
        self.erasures = Some(erasures);
        self
    }

    /// Says what removes what has ended.
    #[must_use]
    pub fn kept_by(mut self, housekeeping: Arc<dyn Housekeeping>) -> Self {
        self.housekeeping = Some(housekeeping);
        self
    }

    /// Says through what an operator sees the outbox.
    #[must_use]
    pub fn shown_by(mut self, records: Arc<dyn OutboxRecords>) -> Self {
        self.records = Some(records);
        self
    }

    /// Keeps `thing` until the test is over.
    #[must_use]
    pub fn keeping(mut self, thing: impl Any + Send + Sync) -> Self {
        self.keep = Box::new(thing);
        self
    }

    /// Says how the same storage is opened once more, as by another process or after a restart. A storage that
    /// outlives its process MUST say so; without it the first handles are used again.
    #[must_use]
    pub fn reopened_by<F>(mut self, open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Handles> + Send + 'static,
    {
        self.reopen = Box::new(move || Box::pin(open()));
        self
    }

    /// The same storage, opened once more.
    pub async fn reopened(&self) -> Handles {
        (self.reopen)().await
    }
}

/// Runs `tasks` in parallel; what each answered, in their order.
pub async fn race<F>(spawn: Spawner, tasks: Vec<F>) -> Vec<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let start = |task: F| {
        let answer = Arc::new(Mutex::new(None));
        let slot = answer.clone();
        let task = async move {
            let value = task.await;
            *lock(&slot) = Some(value);
        };
        (spawn(Box::pin(task)), answer)
    };
    let started: Vec<_> = tasks.into_iter().map(start).collect();
    let mut answers = Vec::new();
    for (end, answer) in started {
        end.await;
        answers.push(lock(&answer).take().expect("the task has ended"));
    }
    answers
}

/// Runs every case of the store's contract; give it an async expression that makes a fresh
/// [`Backend`](crate::testing::contract::Backend). See [`contract`](crate::testing::contract).
#[macro_export]
macro_rules! store_contract {
    ($backend:expr) => {
        $crate::contract_cases! { store, $backend,
            [
                absence_is_none_and_not_an_error
                any_text_is_a_sid_that_names_no_session
                every_field_of_a_session_survives_in_every_state
                a_session_is_found_by_its_key_while_it_is_current
                each_write_adds_one_to_the_revision
                a_new_session_under_an_existing_sid_is_stale
                a_session_of_another_revision_is_stale
                a_second_current_session_under_one_key_is_refused
                a_unit_may_replace_the_current_session_under_a_key
                sids_and_users_are_told_apart_by_case
                an_address_belongs_to_whoever_added_it_first
                addresses_that_look_alike_are_different
                a_new_proof_moves_validated_at_and_keeps_added_at
                an_imported_address_changes_nothing_that_is_there
                threepids_are_listed_oldest_first_then_by_address
                every_field_of_a_threepid_survives
                a_unit_is_applied_in_its_order
                a_unit_whose_third_change_conflicts_changes_nothing
                an_empty_unit_is_committed
                a_message_is_claimable_once_its_unit_is_committed
                sessions_of_identity_servers_are_listed_newest_first
                an_identity_servers_proof_is_spent_once
                there_is_one_binding_for_each_account_address_and_server
                an_address_is_taken_only_from_the_account_that_is_named
                an_owed_unbind_is_claimed_whole
                an_owed_unbind_is_cancelled_by_its_binding_claimed_or_not
                a_challenge_is_spent_once_by_its_user_for_its_sid
                a_challenge_that_is_remembered_is_not_passed_on_anew
                a_unit_about_other_servers_is_whole_or_nothing
                every_field_of_an_audit_entry_survives
                the_audit_trail_is_told_newest_first
                the_audit_trail_is_told_by_account_and_by_address
                an_entry_stands_or_falls_with_the_change_that_it_tells_of
                a_removal_that_took_nothing_is_not_remembered
                an_unbind_done_while_one_that_leaves_nothing_is_owed_is_not_remembered
                the_audit_trail_is_there_after_a_restart
                what_was_committed_is_there_after_a_restart
                what_is_kept_about_other_servers_is_there_after_a_restart
                a_commit_that_is_abandoned_is_whole_or_nothing
                the_check_says_that_it_answers
            ],
            [
                two_accounts_that_add_one_address_at_once_have_one_winner
                one_key_used_twice_at_once_opens_one_session
                one_sid_used_twice_at_once_opens_one_session
                one_revision_is_replaced_once
                an_identity_servers_proof_presented_many_times_at_once_is_spent_once
                a_challenge_answered_many_times_at_once_is_spent_once
                an_address_removed_many_times_at_once_is_remembered_as_removed_once
                units_that_do_not_meet_are_all_committed
                whoever_reads_after_a_commit_sees_it
            ]
        }
    };
}

/// Runs every case of the outbox's contract; give it an async expression that makes a fresh
/// [`Backend`](crate::testing::contract::Backend). See [`contract`](crate::testing::contract).
#[macro_export]
macro_rules! outbox_contract {
    ($backend:expr) => {
        $crate::contract_cases! { outbox, $backend,
            [
                an_empty_outbox_has_nothing_to_claim
                a_message_is_claimed_whole
                a_message_is_not_claimed_before_it_is_due
                the_oldest_due_are_claimed_first_up_to_the_limit
                a_limit_of_nothing_claims_nothing
                a_claimed_message_is_not_claimed_again_before_its_lease_ends
                each_claim_counts_as_an_attempt
                settled_messages_are_never_claimed_again
                a_message_to_be_tried_again_waits_for_its_time
                a_lost_lease_settles_nothing
                a_late_settlement_counts_while_nobody_else_has_claimed
                a_message_is_settled_once_per_claim
                a_message_that_is_to_leave_nothing_leaves_nothing
                settling_what_is_not_there_answers_false
                one_settlement_touches_one_message
                what_is_owed_and_what_is_dead_is_counted_by_kind
                a_newer_message_that_mirrors_an_account_replaces_one_that_waits
                a_message_that_mirrors_and_is_being_tried_is_not_replaced
                leases_and_counts_outlive_a_restart
                woken_returns_for_a_message_owed_just_before
            ],
            [
                claims_at_once_share_no_message
                a_lease_has_one_heir
                settlements_at_once_each_have_their_own_outcome
                woken_returns_for_a_message_owed_while_waiting
            ]
        }
    };
}

/// Runs every case of the housekeeping's contract; give it an async expression that makes a fresh
/// [`Backend`](crate::testing::contract::Backend) that says who [keeps](crate::testing::contract::Backend::kept_by) it.
#[macro_export]
macro_rules! housekeeping_contract {
    ($backend:expr) => {
        $crate::contract_cases! { housekeeping, $backend,
            [
                an_empty_storage_has_nothing_to_remove
                a_session_leaves_by_the_last_time_that_it_speaks_of
                a_session_that_left_can_neither_be_changed_nor_found
                what_other_servers_said_leaves_by_its_age
                a_challenge_leaves_by_its_age_spent_or_not
                settled_messages_leave_by_when_they_were_settled_and_others_stay
                audit_entries_leave_by_their_age
                the_oldest_leave_first_up_to_the_limit
                what_left_stays_away_after_a_restart
            ],
            [
                many_that_remove_at_once_count_each_thing_once
                a_session_that_is_used_meanwhile_is_whole_or_gone
            ]
        }
    };
}

/// Runs every case of the contract of the outbox's records; give it an async expression that makes a fresh
/// [`Backend`](crate::testing::contract::Backend) that says what
/// [shows](crate::testing::contract::Backend::shown_by) it.
#[macro_export]
macro_rules! outbox_records_contract {
    ($backend:expr) => {
        $crate::contract_cases! { outbox_records, $backend,
            [
                an_empty_outbox_shows_nothing
                every_field_of_a_message_is_shown
                a_dead_message_says_why
                messages_are_shown_in_the_order_in_which_they_were_owed
                a_dead_message_that_is_owed_again_is_claimed_at_once
                a_waiting_message_that_is_owed_again_is_claimed_at_once
                a_message_that_is_being_tried_is_left_alone
                a_message_whose_lease_has_ended_is_decided_upon
                a_settled_message_is_left_alone
                a_forgotten_message_is_gone
                what_was_decided_holds_after_a_restart
            ],
            [one_decision_about_a_message_comes_first]
        }
    };
}

/// Runs every case of the limiter's contract; give it an async expression that makes a fresh
/// [`LimiterBackend`](crate::testing::contract::LimiterBackend) under the kit's rates.
#[macro_export]
macro_rules! rate_limiter_contract {
    ($backend:expr) => {
        $crate::contract_cases! { rate_limiter, $backend,
            [
                a_burst_is_allowed_and_then_one_act_per_interval
                acts_under_several_limits_are_counted_up_to_the_first_that_is_refused
                each_subject_of_each_limit_is_counted_on_its_own
                a_look_tells_and_counts_nothing
                no_more_is_given_back_than_was_taken
                a_clock_that_is_set_back_refuses_nobody_for_long
                shared_limits_hold_across_instances_and_restarts
            ],
            [acts_at_once_are_each_counted]
        }
    };
}

/// Runs every case of the contract of the accounts' records; give it an async expression that makes a fresh
/// [`Backend`](crate::testing::contract::Backend) that says who is
/// [asked](crate::testing::contract::Backend::asked_by) about accounts.
#[macro_export]
macro_rules! account_records_contract {
    ($backend:expr) => {
        $crate::contract_cases! { account_records, $backend,
            [
                nothing_is_kept_about_an_account_that_was_never_here
                everything_about_an_account_is_found
                what_is_kept_about_an_account_is_told_oldest_first
            ],
            []
        }
    };
}

/// Runs every case of the contract of what erases accounts; give it an async expression that makes a fresh
/// [`Backend`](crate::testing::contract::Backend) that says what
/// [erases](crate::testing::contract::Backend::erased_by) accounts and who is
/// [asked](crate::testing::contract::Backend::asked_by) about them.
#[macro_export]
macro_rules! erasures_contract {
    ($backend:expr) => {
        $crate::contract_cases! { erasures, $backend,
            [
                an_account_that_was_never_here_is_erased_without_a_trace
                everything_of_an_account_goes_and_its_neighbours_stay
                what_stays_of_an_account_has_no_name
                an_account_that_is_erased_twice_is_erased_once
                an_erasure_that_does_not_know_all_changes_nothing
                an_unbind_becomes_one_that_will_leave_nothing
                every_account_is_named_once
                what_was_erased_is_gone_after_a_restart
                an_account_of_thousands_of_addresses_is_shown_and_erased
            ],
            [what_is_added_at_once_is_whole_or_gone]
        }
    };
}

/// Runs every case of the mailer's contract that needs nothing but mails that arrive; give it an async expression
/// that makes a fresh [`MailBackend`](crate::testing::contract::MailBackend). A mailer whose next hop can fail runs
/// [`mail_hop_contract!`](crate::mail_hop_contract), too.
#[macro_export]
macro_rules! mailer_contract {
    ($backend:expr) => {
        $crate::contract_cases! { mailer, $backend,
            [
                a_mail_arrives_with_what_it_says
                the_message_id_is_the_same_at_every_try
                different_mails_have_different_message_ids
                the_domain_is_written_in_ascii
                the_mail_says_that_it_is_automatic
                long_and_foreign_texts_arrive_whole
                a_subject_cannot_add_a_header
            ],
            [mails_sent_at_once_all_arrive]
        }
    };
}

/// Runs every case of the mailer's contract that needs a next hop which can fail: a [`MailBackend`] with a hop.
///
/// [`MailBackend`]: crate::testing::contract::MailBackend
#[macro_export]
macro_rules! mail_hop_contract {
    ($backend:expr) => {
        $crate::contract_cases! { mailer, $backend,
            [
                a_deferred_mail_may_be_taken_later
                a_refused_mail_is_not_tried_again
                a_hop_that_says_nothing_is_given_up
                a_hop_that_is_gone_may_come_back
                a_mailer_that_failed_sends_again
            ],
            []
        }
    };
}

/// Runs every case of the SMS sender's contract that needs nothing but SMS that arrive; give it an async expression
/// that makes a fresh [`SmsBackend`](crate::testing::contract::SmsBackend). A sender whose gateway can fail runs
/// [`sms_gateway_contract!`](crate::sms_gateway_contract), too.
#[macro_export]
macro_rules! sms_sender_contract {
    ($backend:expr) => {
        $crate::contract_cases! { sms_sender, $backend,
            [
                an_sms_arrives_with_what_it_says
                numbers_of_any_length_arrive
                no_character_of_the_text_is_lost_or_changed
                a_text_cannot_add_a_recipient
                the_reference_is_the_same_at_every_try
                different_sms_have_different_references
            ],
            [sms_sent_at_once_all_arrive]
        }
    };
}

/// Runs every case of the SMS sender's contract that needs a gateway which can fail: an [`SmsBackend`] with a gateway.
///
/// [`SmsBackend`]: crate::testing::contract::SmsBackend
#[macro_export]
macro_rules! sms_gateway_contract {
    ($backend:expr) => {
        $crate::contract_cases! { sms_sender, $backend,
            [
                a_deferred_sms_may_be_taken_later
                a_refused_sms_is_not_tried_again
                an_answer_that_cannot_be_read_is_no_answer
                a_gateway_that_says_nothing_is_given_up
                a_gateway_that_is_gone_may_come_back
                an_sms_whose_answer_was_lost_is_tried_again
                a_sender_that_failed_sends_again
            ],
            []
        }
    };
}

/// One test a case. The first list's cases get the backend, the second list's also what starts tasks in parallel.
#[doc(hidden)]
#[macro_export]
macro_rules! contract_cases {
    ($kit:ident, $backend:expr, [$($case:ident)*], [$($race:ident)*]) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                let run = async {
                    let backend = $backend.await;
                    $crate::testing::contract::$kit::$case(&backend).await;
                };
                assert!(tokio::time::timeout(std::time::Duration::from_secs(60), run).await.is_ok(), "timed out");
            }
        )*
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $race() {
                fn spawn(
                    task: $crate::testing::contract::BoxFuture<()>,
                ) -> $crate::testing::contract::BoxFuture<()> {
                    let task = tokio::spawn(task);
                    Box::pin(async move { assert!(task.await.is_ok(), "a task of the case panicked") })
                }
                let run = async {
                    let backend = $backend.await;
                    $crate::testing::contract::$kit::$race(&backend, spawn).await;
                };
                assert!(tokio::time::timeout(std::time::Duration::from_secs(60), run).await.is_ok(), "timed out");
            }
        )*
    };
}

#[cfg(test)]
mod tests;
