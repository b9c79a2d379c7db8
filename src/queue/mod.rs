//! (under construction) The job as consumers see it.

/// One unit of work.
#[derive(Clone, Debug)]
pub struct Job {
    /// Opaque bytes.
    pub payload: Vec<u8>,
    key: String,
}

impl Job {
    /// A job that comes from no queue: a payload given by hand.
    pub fn by_hand(key: &str, payload: Vec<u8>) -> Self {
        Self {
            payload,
            key: key.into(),
        }
    }

    /// Names the job.
    pub fn id(&self) -> String {
        "1".into()
    }

    /// 1 for the first run.
    pub fn attempt(&self) -> u32 {
        1
    }

    /// The list it came from.
    pub fn key(&self) -> &str {
        &self.key
    }
}
