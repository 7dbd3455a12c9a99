//! The faults, one file each: what is broken, how it is mended, what has to hold.

mod backup;
mod clock;
mod disk;
mod hangup;
mod homeserver;
mod kill;
mod mail;
mod terminate;

use std::time::Instant;

use crate::options::Options;
use crate::report::{Table, say};

/// Runs what is wanted, one after the other, so that times can be compared. Whether everything held.
pub(crate) async fn run(options: &Options) -> bool {
    let mut table = Table::default();
    say(format_args!(
        "seed {}, {} clients, {:?}\n{}",
        options.seed,
        options.clients,
        options.database,
        Table::head()
    ));
    macro_rules! scenario {
        ($name:expr, $run:expr) => {
            if options.wants($name) {
                let began = Instant::now();
                table.add($name, began, $run.await);
            }
        };
    }
    scenario!("kill", kill::run(options));
    for fault in mail::FAULTS {
        scenario!(fault.name, mail::run(options, fault));
    }
    scenario!("homeserver down, slow, broken", homeserver::run(options));
    scenario!("disk full", disk::run(options));
    scenario!("disk full for the log", disk::log(options));
    scenario!("clients hang up", hangup::run(options));
    scenario!("terminate", terminate::run(options));
    scenario!("clock set back", clock::run(options));
    scenario!("backup under load", backup::run(options));
    table.conclude()
}
