//! The real peers, one file each.
//!
//! Every constructor picks a free port, starts the process, and returns once it answers; every `Drop` ends it.

mod ca;
mod process;
mod smtp;
mod synapse;

pub use ca::{Certificate, TestCa};
pub use process::{PeerError, artifacts, free_port, repository, target_folder, temp_folder, wait_until};
pub use smtp::{CapturedMail, SmtpMode, SmtpSecurity, SmtpServer, SmtpServerBuilder};
pub use synapse::{Synapse, SynapseBuilder, User};
