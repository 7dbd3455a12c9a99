//! The domain's contract kits, on a database that is opened a second time where a case asks for a restart.

#![expect(clippy::expect_used, reason = "without a backend there is nothing to test")]

use threepid_domain::testing::contract::{Backend, Handles};

async fn fresh() -> Backend {
    let url = super::empty().await.expect("there is a database");
    let store = super::open(&url).await.expect("the database opens");
    let reopen = move || {
        let url = url.clone();
        async move {
            let store = super::open(&url).await.expect("the database opens again");
            Handles { store: store.clone(), outbox: store }
        }
    };
    Backend::new(store.clone(), store).reopened_by(reopen)
}

mod store {
    threepid_domain::store_contract!(super::fresh());
}

mod outbox {
    threepid_domain::outbox_contract!(super::fresh());
}
