//! The domain's contract kits, on a file that is opened a second time where a case asks for a restart.

#![expect(clippy::expect_used, reason = "without a backend there is nothing to test")]

use std::path::PathBuf;
use std::sync::Arc;

use threepid_domain::testing::contract::{Backend, Handles};

use crate::sea_orm::{ConnectSettings, Database, SeaOrmStore};

async fn open(path: PathBuf) -> Arc<SeaOrmStore> {
    let settings = ConnectSettings::new(path.display().to_string());
    let database = Database::connect(&settings).await.expect("the database opens");
    database.migrate().await.expect("the database is migrated");
    Arc::new(SeaOrmStore::new(database))
}

async fn fresh() -> Backend {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let path = folder.path().join("threepid.db");
    let store = open(path.clone()).await;
    let reopen = move || {
        let path = path.clone();
        async {
            let store = open(path).await;
            Handles { store: store.clone(), outbox: store }
        }
    };
    Backend::new(store.clone(), store.clone())
        .kept_by(store.clone())
        .shown_by(store.clone())
        .asked_by(store.clone())
        .erased_by(store)
        .reopened_by(reopen)
        .keeping(folder)
}

mod store {
    threepid_domain::store_contract!(super::fresh());
}

mod outbox {
    threepid_domain::outbox_contract!(super::fresh());
}

mod housekeeping {
    threepid_domain::housekeeping_contract!(super::fresh());
}

mod outbox_records {
    threepid_domain::outbox_records_contract!(super::fresh());
}

mod account_records {
    threepid_domain::account_records_contract!(super::fresh());
}

mod erasures {
    threepid_domain::erasures_contract!(super::fresh());
}
