//! What a worker and the master say to each other: one datagram per message, fixed small sizes, a version byte first.
//! Pure: encoding and decoding only. The socketpair itself is in the parent module.

/// Version of the encoding; a peer that speaks another one is not understood (see [`DecodeError::Version`]).
pub const VERSION: u8 = 1;

/// The longest text a message carries, in bytes; longer ones are cut at a character boundary.
pub const MAX_TEXT: usize = 4096;

/// The longest encoded message, in bytes.
pub const MAX_MESSAGE: usize = MAX_TEXT + 16;

/// Why a worker is replaced although it is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecycleReason {
    /// It ran `worker.max_run_count` jobs.
    Runs,
    /// It lived `worker.max_run_seconds`.
    Age,
    /// It had nothing to do for `worker.max_idle_seconds`.
    Idle,
    /// Worker and script use more than 80 % of `run.memory_limit`.
    Memory,
    /// An operator asked for it.
    Order,
    /// The daemon reloads.
    Reload,
}

impl RecycleReason {
    /// All reasons, in the order of their codes on the wire.
    pub const ALL: [RecycleReason; 6] = [
        Self::Runs,
        Self::Age,
        Self::Idle,
        Self::Memory,
        Self::Order,
        Self::Reload,
    ];

    /// The word in logs and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::Memory => "memory",
            Self::Order => "order",
            Self::Reload => "reload",
        }
    }

    fn code(self) -> u8 {
        self as u8
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// From the master to a worker (or the keeper).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// Prove that you live: answer with the same sequence number.
    Heartbeat {
        /// Rises by one per heartbeat of this slot.
        sequence: u64,
    },
    /// Finish the job in hand, give back the rest, leave with status 0.
    Drain,
    /// The same, and a successor follows.
    Recycle(RecycleReason),
}

/// From a worker (or the keeper) to the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToMaster {
    /// What the predecessor had reserved is back in its queue (or there is no queue).
    Reclaimed,
    /// It can take jobs.
    Ready,
    /// The answer to [`ToWorker::Heartbeat`].
    Heartbeat {
        /// The sequence number that was asked with.
        sequence: u64,
        /// Resident memory of the worker and its script's process group, in bytes.
        rss_bytes: u64,
    },
    /// It leaves by itself after the job in hand; a successor should follow.
    Recycling(RecycleReason),
    /// The consumer cannot be started, in its own words; the worker leaves after this.
    Failed {
        /// At most [`MAX_TEXT`] bytes.
        message: String,
    },
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The peer speaks another version of the encoding.
    #[error("version {0} of the channel is not ours")]
    Version(u8),
    /// Not a message at all.
    #[error("not a channel message")]
    Invalid,
}

impl ToWorker {
    /// Appends the encoded message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Self::Heartbeat { sequence } => {
                out.push(b'H');
                out.extend_from_slice(&sequence.to_le_bytes());
            }
            Self::Drain => out.push(b'D'),
            Self::Recycle(reason) => out.extend_from_slice(&[b'C', reason.code()]),
        }
    }

    /// Reads one whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match split(bytes)? {
            (b'H', body) => Ok(Self::Heartbeat {
                sequence: u64::from_le_bytes(exactly(body)?),
            }),
            (b'D', []) => Ok(Self::Drain),
            (b'C', [code]) => reason(*code).map(Self::Recycle),
            _ => Err(DecodeError::Invalid),
        }
    }
}

impl ToMaster {
    /// Appends the encoded message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Self::Reclaimed => out.push(b'B'),
            Self::Ready => out.push(b'R'),
            Self::Heartbeat {
                sequence,
                rss_bytes,
            } => {
                out.push(b'H');
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(&rss_bytes.to_le_bytes());
            }
            Self::Recycling(reason) => out.extend_from_slice(&[b'C', reason.code()]),
            Self::Failed { message } => {
                out.push(b'F');
                out.extend_from_slice(cut(message).as_bytes());
            }
        }
    }

    /// Reads one whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match split(bytes)? {
            (b'B', []) => Ok(Self::Reclaimed),
            (b'R', []) => Ok(Self::Ready),
            (b'H', body) => {
                let (sequence, rss) = body.split_at_checked(8).ok_or(DecodeError::Invalid)?;
                Ok(Self::Heartbeat {
                    sequence: u64::from_le_bytes(exactly(sequence)?),
                    rss_bytes: u64::from_le_bytes(exactly(rss)?),
                })
            }
            (b'C', [code]) => reason(*code).map(Self::Recycling),
            (b'F', text) if text.len() <= MAX_TEXT => Ok(Self::Failed {
                message: String::from_utf8_lossy(text).into_owned(),
            }),
            _ => Err(DecodeError::Invalid),
        }
    }
}

/// At most [`MAX_TEXT`] bytes of a text, whole characters.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_TEXT))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

fn split(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    match bytes {
        [VERSION, kind, body @ ..] => Ok((*kind, body)),
        [other, ..] if *other != VERSION => Err(DecodeError::Version(*other)),
        _ => Err(DecodeError::Invalid),
    }
}

fn exactly(bytes: &[u8]) -> Result<[u8; 8], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Invalid)
}

fn reason(code: u8) -> Result<RecycleReason, DecodeError> {
    RecycleReason::from_code(code).ok_or(DecodeError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_worker() -> Vec<ToWorker> {
        let mut all = vec![ToWorker::Heartbeat { sequence: u64::MAX }, ToWorker::Drain];
        all.extend(RecycleReason::ALL.map(ToWorker::Recycle));
        all
    }

    fn to_master() -> Vec<ToMaster> {
        let mut all = vec![
            ToMaster::Reclaimed,
            ToMaster::Ready,
            ToMaster::Heartbeat {
                sequence: 7,
                rss_bytes: 1 << 40,
            },
            ToMaster::Failed {
                message: "PHP Parse error: ünexpected".into(),
            },
        ];
        all.extend(RecycleReason::ALL.map(ToMaster::Recycling));
        all
    }

    #[test]
    fn what_is_encoded_is_decoded_and_no_truncation_passes_for_another_message() {
        for message in to_worker() {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert_eq!(ToWorker::decode(&bytes), Ok(message));
            for cut in 0..bytes.len() {
                assert!(ToWorker::decode(&bytes[..cut]).is_err());
            }
        }
        for message in to_master() {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert_eq!(ToMaster::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let mut bytes = Vec::new();
        ToMaster::Failed {
            message: "ü".repeat(MAX_TEXT),
        }
        .encode(&mut bytes);
        assert!(bytes.len() <= MAX_MESSAGE);
        let Ok(ToMaster::Failed { message }) = ToMaster::decode(&bytes) else {
            panic!("decodes")
        };
        assert!(message.chars().all(|c| c == 'ü'));
    }

    #[test]
    fn another_version_and_garbage_are_refused() {
        assert_eq!(
            ToWorker::decode(&[VERSION + 1, b'D']),
            Err(DecodeError::Version(VERSION + 1))
        );
        assert_eq!(ToWorker::decode(&[]), Err(DecodeError::Invalid));
        assert_eq!(
            ToWorker::decode(&[VERSION, b'C', 99]),
            Err(DecodeError::Invalid)
        );
        assert_eq!(
            ToMaster::decode(&[VERSION, b'?']),
            Err(DecodeError::Invalid)
        );
    }
}
