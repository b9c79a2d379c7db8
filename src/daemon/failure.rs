//! Why a command ends without success: a message for stderr and an exit status that means something.

/// Exit statuses; those from 64 on are sysexits(3)'s.
pub mod status {
    /// Failed at run time; client commands: no daemon at the address.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// `status`: not running.
    pub const NOT_RUNNING: u8 = 3;
    /// Script or queue refused at start, port taken.
    pub const UNAVAILABLE: u8 = 69;
    /// A file cannot be created.
    pub const CANNOT_CREATE: u8 = 73;
    /// Already running.
    pub const ALREADY_RUNNING: u8 = 75;
    /// Not permitted.
    pub const NOT_PERMITTED: u8 = 77;
    /// Settings refused.
    pub const BAD_SETTINGS: u8 = 78;
}

/// The end of a command that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One of [`status`].
    pub status: u8,
    /// `cannot <verb> <object>: <cause>`; several lines when there are several mistakes.
    pub message: String,
}

impl Failure {
    /// With one of [`status`].
    pub fn new(status: u8, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}
