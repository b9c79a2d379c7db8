//! Signal masks and dispositions around fork: a child starts from the defaults, not from its parent's handlers.

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};

/// Blocks every signal of this thread until [`unblock_all`], so that none runs a parent's handler in a child.
pub fn block_all() {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
}

/// Lets every signal through again.
pub fn unblock_all() {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Lets every signal through but this one, which stays pending until it is read from a signalfd.
pub fn block_only(signal: Signal) {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::from(signal)), None);
}

/// Ignores these until somebody handles them.
pub fn ignore(signals: &[Signal]) {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in signals {
        // SAFETY: no handler function is installed.
        let _ = unsafe { sigaction(*signal, &action) };
    }
}

/// Gives every signal its default action, but ignores SIGPIPE (a write then fails, which is handled) and `ignored`.
pub fn reset(ignored: &[Signal]) {
    for signal in Signal::iterator() {
        let ignore = signal == Signal::SIGPIPE || ignored.contains(&signal);
        let handler = if ignore {
            SigHandler::SigIgn
        } else {
            SigHandler::SigDfl
        };
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler function is installed. SIGKILL and SIGSTOP are refused by the kernel, which is fine.
        let _ = unsafe { sigaction(signal, &action) };
    }
}
