//! The real peers, one file each.
//!
//! Every constructor picks a free port, starts the process, and returns once it answers; every `Drop` ends it.

mod ca;
mod chromium;
mod nginx;
mod node;
mod postgres;
mod process;
mod program;
mod prometheus;
mod schemathesis;
mod sms;
mod smtp;
mod sydent;
mod synapse;

pub use ca::{Certificate, TestCa};
pub use chromium::{Appearance, Chromium, ChromiumOptions, Element, Viewport};
pub use nginx::{Nginx, front};
pub use node::{NodeScript, ScriptOutput};
pub use postgres::{Postgres, PostgresBuilder};
pub use process::{
    PeerError, artifacts, free_port, python_packages, repository, server_program, target_folder, temp_folder,
    wait_until,
};
pub use program::Program;
pub use prometheus::{Prometheus, check_rules, test_rules};
pub use schemathesis::{Findings, Schemathesis};
pub use sms::{CapturedSms, SmsGateway, SmsMode};
pub use smtp::{CapturedMail, SmtpMode, SmtpSecurity, SmtpServer, SmtpServerBuilder};
pub use sydent::{IdentityAccount, Sydent};
pub use synapse::{Synapse, SynapseBuilder, User};
