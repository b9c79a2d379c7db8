//! Who may do what: the passwords of the settings, and how failed attempts are told without letting an attacker fill
//! the log. Pure.

use crate::config::Secret;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The only user that Redis knows without ACLs; both passwords are his.
const DEFAULT_USER: &str = "default";

/// What [`Role::ReadOnly`] is called.
const READONLY_USER: &str = "readonly";

/// Failed attempts are told no more often than this.
const REFUSALS_INTERVAL: Duration = Duration::from_secs(10);

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Full,
    /// Look, but not steer.
    ReadOnly,
}

impl Role {
    /// The name of the user.
    pub fn user(self) -> &'static str {
        match self {
            Self::Full => DEFAULT_USER,
            Self::ReadOnly => READONLY_USER,
        }
    }

    /// Is there a user of this name?
    pub fn is_user(name: &[u8]) -> bool {
        [Self::Full, Self::ReadOnly]
            .iter()
            .any(|role| role.user().as_bytes() == name)
    }
}

/// What is kept of a password. Comparing takes the same time wherever two of them differ, and tells nothing of a
/// password's length.
#[derive(Clone, Copy)]
pub struct Digest([u8; 20]);

impl Digest {
    /// Of a password, or of what a client takes for it.
    pub fn of(password: &[u8]) -> Self {
        Self(sha1_smol::Sha1::from(password).digest().bytes())
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        // Opaque to the optimiser, which could end the loop at the first difference.
        let difference = pairs.fold(0, |sum, (ours, theirs)| black_box(sum | (ours ^ theirs)));
        difference == 0
    }
}

impl Eq for Digest {}

/// By hand: with it a password could be searched for.
impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The passwords in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access {
    full: Option<Digest>,
    readonly: Option<Digest>,
}

impl Access {
    /// Of the settings. Without any password everybody may do everything.
    pub fn new(password: Option<&Secret>, readonly_password: Option<&Secret>) -> Self {
        let digest = |secret: &Secret| Digest::of(secret.0.as_bytes());
        Self {
            full: password.map(digest),
            readonly: readonly_password.map(digest),
        }
    }

    /// Does nobody need a password?
    pub fn is_open(&self) -> bool {
        self.full.is_none() && self.readonly.is_none()
    }

    /// What this user with this password may do; none: he is refused.
    pub fn role(&self, user: &[u8], password: Digest) -> Option<Role> {
        if self.is_open() {
            return (user == DEFAULT_USER.as_bytes()).then_some(Role::Full);
        }
        // Both are compared in any case: the time tells nothing.
        let is_full = self.full == Some(password);
        let is_readonly = self.readonly == Some(password);
        match (is_full, is_readonly) {
            (true, _) if user == DEFAULT_USER.as_bytes() => Some(Role::Full),
            (_, true) if Role::is_user(user) => Some(Role::ReadOnly),
            _ => None,
        }
    }
}

/// Failed attempts: counted always, told now and then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refusals {
    told_at: Option<Instant>,
    untold: u64,
}

impl Refusals {
    /// One more. If it is time to tell, how many went untold before it.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        let is_early = self
            .told_at
            .is_some_and(|at| now.saturating_duration_since(at) < REFUSALS_INTERVAL);
        if is_early {
            self.untold += 1;
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(full: Option<&str>, readonly: Option<&str>) -> Access {
        let secret = |text: &str| Secret(text.into());
        Access::new(full.map(secret).as_ref(), readonly.map(secret).as_ref())
    }

    #[test]
    fn each_password_gives_its_role_to_the_users_it_belongs_to() {
        let both = access(Some("steer"), Some("look"));
        let open = access(None, None);
        let only_readonly = access(None, Some("look"));
        let cases = [
            (both, "default", "steer", Some(Role::Full)),
            (both, "default", "look", Some(Role::ReadOnly)),
            (both, "readonly", "look", Some(Role::ReadOnly)),
            (both, "readonly", "steer", None),
            (both, "root", "steer", None),
            (both, "Default", "steer", None),
            (both, "default", "", None),
            (both, "default", "steer ", None),
            (both, "default", "STEER", None),
            (only_readonly, "default", "", None),
            (only_readonly, "default", "look", Some(Role::ReadOnly)),
            (open, "default", "anything", Some(Role::Full)),
            (open, "readonly", "anything", None),
        ];
        for (access, user, password, role) in cases {
            let given = access.role(user.as_bytes(), Digest::of(password.as_bytes()));
            assert_eq!(given, role, "{user} {password}");
        }
        assert!(open.is_open() && !only_readonly.is_open());
    }

    #[test]
    fn nothing_of_a_password_is_shown() {
        assert_eq!(
            format!("{:?}", access(Some("steer"), None)),
            "Access { full: Some(***), readonly: None }"
        );
    }

    #[test]
    fn a_thousand_failed_attempts_are_told_once_and_counted() {
        let t0 = Instant::now();
        let mut refusals = Refusals::default();
        assert_eq!(refusals.count(t0), Some(0));
        for _ in 0..1000 {
            assert_eq!(refusals.count(t0 + Duration::from_secs(9)), None);
        }
        assert_eq!(refusals.count(t0 + Duration::from_secs(10)), Some(1000));
        assert_eq!(refusals.count(t0 + Duration::from_secs(20)), Some(0));
    }
}
