//! The scripts that move jobs, and nothing else does. Each is known to the server by its SHA1; the connection loads
//! one that the server has forgotten. What they promise stands at the head of each file.

use std::sync::OnceLock;

/// Settles a reservation and makes the next.
pub static TURN: Script = Script::new(concat!(include_str!("fates.lua"), include_str!("turn.lua")));
/// Opens a slot's reserved list if it is absent.
pub static OPEN: Script = Script::new(include_str!("open.lua"));
/// Ends a reserved list and gives back what had not ended.
pub static RECLAIM: Script = Script::new(concat!(
    include_str!("fates.lua"),
    include_str!("reclaim.lua")
));
/// Gives back the tail of a reservation.
pub static GIVEBACK: Script = Script::new(include_str!("giveback.lua"));
/// Takes one job for good.
pub static POP: Script = Script::new(include_str!("pop.lua"));

/// Moves jobs that are due.
pub static DUE: Script = Script::new(concat!(include_str!("fates.lua"), include_str!("due.lua")));
/// Pushes jobs that are not due yet.
pub static LATER: Script = Script::new(include_str!("later.lua"));

/// A Lua script and the name the server has for it.
pub struct Script {
    text: &'static str,
    sha: OnceLock<String>,
}

impl Script {
    const fn new(text: &'static str) -> Self {
        Self {
            text,
            sha: OnceLock::new(),
        }
    }

    /// The source, as `SCRIPT LOAD` takes it.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// SHA1 of the source in lower-case hex, as `EVALSHA` takes it.
    pub fn sha(&self) -> &str {
        self.sha
            .get_or_init(|| sha1_smol::Sha1::from(self.text).digest().to_string())
    }
}
