//! (under construction)

/// What an operator tells the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Finish the jobs in hand, then stop.
    Shutdown,
    /// Stop without waiting.
    ShutdownNow,
    /// Replace all workers.
    Reload,
}
