//! The name of every key that stark uses for a queue, and back: which slot a registered list belongs to.
//! All of them lie in the cluster slot of the queue's own key, so that scripts may touch them together. Pure.

/// The keys of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The list that producers push to.
    pub waiting: String,
    /// Set of the names of all reserved lists.
    pub registry: String,
    /// Hash of totals: `processed` (jobs that ended), `failed` (those of them that failed), `reclaimed`.
    pub stats: String,
    /// Sorted set of jobs that are not due yet.
    pub delayed: String,
    /// Sorted set of jobs that were buried.
    pub dead: String,
    prefix: String,
}

/// A slot's reserved list, as its name tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registered {
    /// The key of the list.
    pub name: String,
    /// The waiting list of its jobs.
    pub key: String,
    /// The daemon's node.
    pub node: String,
    /// The pool.
    pub pool: String,
    /// The slot in that pool.
    pub slot: u32,
}

impl Keys {
    /// The keys of the queue whose waiting list is `key`.
    pub fn new(key: &str) -> Self {
        let tag = if has_hash_tag(key) {
            key.to_string()
        } else {
            format!("{{{key}}}")
        };
        Self {
            waiting: key.to_string(),
            registry: format!("{tag}:stark:reserved"),
            stats: format!("{tag}:stark:stats"),
            delayed: format!("{tag}:stark:delayed"),
            dead: format!("{tag}:stark:dead"),
            prefix: format!("{tag}:stark:"),
        }
    }

    /// The reserved list of a slot; `node` and `pool` hold no colon.
    pub fn reserved(&self, node: &str, pool: &str, slot: u32) -> String {
        format!("{}:{node}:{pool}:{slot}", self.registry)
    }

    /// Whose list `name` is; none if it is no name of ours.
    pub fn parse_reserved(&self, name: &str) -> Option<Registered> {
        let rest = name.strip_prefix(&self.registry)?.strip_prefix(':')?;
        let mut parts = rest.split(':');
        let (node, pool, slot) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        let registered = Registered {
            name: self.reserved(node, pool, slot),
            key: self.waiting.clone(),
            node: node.to_string(),
            pool: pool.to_string(),
            slot,
        };
        (registered.name == name).then_some(registered)
    }

    /// What an ACL user must be allowed to touch, in the words of `ACL SETUSER`.
    pub fn acl_patterns(&self) -> String {
        format!("~{} ~{}*", self.waiting, self.prefix)
    }
}

/// The same for all keys of a queue.
pub(super) fn acl_patterns(keys: &[String]) -> String {
    let patterns: Vec<String> = keys
        .iter()
        .map(|key| Keys::new(key).acl_patterns())
        .collect();
    patterns.join(" ")
}

/// The cluster hashes only what stands between the first `{` and the next `}`, if that is not empty.
fn has_hash_tag(key: &str) -> bool {
    key.split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .is_some_and(|(tag, _)| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_share_the_cluster_slot_of_the_queue() {
        let keys = Keys::new("test:redis");
        assert_eq!(keys.waiting, "test:redis");
        assert_eq!(keys.registry, "{test:redis}:stark:reserved");
        assert_eq!(keys.stats, "{test:redis}:stark:stats");
        assert_eq!(
            keys.reserved("n1", "mail", 7),
            "{test:redis}:stark:reserved:n1:mail:7"
        );
        assert_eq!(keys.acl_patterns(), "~test:redis ~{test:redis}:stark:*");
    }

    #[test]
    fn a_key_with_a_hash_tag_keeps_it() {
        assert_eq!(Keys::new("{a}:b").stats, "{a}:b:stark:stats");
        assert_eq!(Keys::new("x{}y").stats, "{x{}y}:stark:stats");
        assert_eq!(Keys::new("x{y").stats, "{x{y}:stark:stats");
        assert_eq!(Keys::new("x}y{").stats, "{x}y{}:stark:stats");
    }

    #[test]
    fn the_name_of_a_list_tells_its_slot_and_nothing_else_passes_for_one() {
        let keys = Keys::new("q");
        let name = keys.reserved("host-1f", "mail.v2", 12);
        assert_eq!(
            keys.parse_reserved(&name),
            Some(Registered {
                name: name.clone(),
                key: "q".into(),
                node: "host-1f".into(),
                pool: "mail.v2".into(),
                slot: 12
            })
        );
        for bad in [
            "",
            "{q}:stark:reserved",
            "{q}:stark:reserved:n:p",
            "{q}:stark:reserved:n:p:x",
            "{q}:stark:reserved:n:p:007",
            "{q}:stark:reserved:n:p:-1",
            "{q}:stark:reserved:n:p:1:2",
            "{q}:stark:reserved:n:p:4294967296",
            "{other}:stark:reserved:n:p:1",
        ] {
            assert_eq!(keys.parse_reserved(bad), None, "{bad}");
        }
    }
}
