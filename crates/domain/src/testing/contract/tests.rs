//! The kits run on the fakes, and are shown to fail on stores that break their promises.

use std::sync::Arc;

use super::{Backend, MailBackend};
use crate::testing::{MemoryStore, RecordingMailer};

async fn memory() -> Backend {
    let store = Arc::new(MemoryStore::new());
    Backend::new(store.clone(), store)
}

async fn recording() -> MailBackend {
    let mailer = Arc::new(RecordingMailer::default());
    MailBackend { mailer: mailer.clone(), inbox: mailer.clone(), hop: Some(mailer), keep: Box::new(()) }
}

mod store {
    crate::store_contract!(super::memory());
}

mod outbox {
    crate::outbox_contract!(super::memory());
}

mod mailer {
    crate::mailer_contract!(super::recording());
}

mod mail_hop {
    crate::mail_hop_contract!(super::recording());
}

/// A case that no macro lists would never run.
#[test]
fn every_case_of_a_kit_is_run_by_its_macro() {
    let macros = include_str!("mod.rs");
    for kit in [include_str!("store.rs"), include_str!("outbox.rs"), include_str!("mailer.rs")] {
        let cases = kit.lines().filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('('));
        let missing: Vec<_> = cases.map(|(name, _)| name).filter(|name| !macros.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
