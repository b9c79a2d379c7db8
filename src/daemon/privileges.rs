//! From root to the user of `main.user`: everything but binding is done as that user.

use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, Uid, User, geteuid, initgroups, setegid, seteuid, setresgid, setresuid,
};

use super::{Failure, status};
use crate::config::Main;

/// The user that a daemon started as root becomes.
#[derive(Clone, Debug)]
pub struct Account {
    name: CString,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// Of the settings; none when no user is set.
    ///
    /// # Errors
    /// 78 for an unknown user or group, 77 when we are neither root nor that user.
    pub fn of(main: &Main) -> Result<Option<Self>, Failure> {
        let Some(name) = &main.user else {
            return match &main.group {
                Some(_) => Err(Failure::new(
                    status::BAD_SETTINGS,
                    "main.group: needs main.user",
                )),
                None => Ok(None),
            };
        };
        let bad = |what: String| Failure::new(status::BAD_SETTINGS, what);
        let user = User::from_name(name).ok().flatten();
        let user = user.ok_or_else(|| bad(format!("main.user: there is no user \"{name}\"")))?;
        let gid = match &main.group {
            None => user.gid,
            Some(group) => {
                let found = Group::from_name(group).ok().flatten();
                found
                    .ok_or_else(|| bad(format!("main.group: there is no group \"{group}\"")))?
                    .gid
            }
        };
        if geteuid() == user.uid {
            return Ok(None);
        }
        if !geteuid().is_root() {
            let message = format!("cannot become user \"{name}\": only root can");
            return Err(Failure::new(status::NOT_PERMITTED, message));
        }
        let name = CString::new(name.as_str()).map_err(|_| bad("main.user: holds a NUL".into()))?;
        Ok(Some(Self {
            name,
            uid: user.uid,
            gid,
        }))
    }

    /// Acts as the user until [`Account::back_to_root`].
    pub fn act_as(&self) -> Result<(), Failure> {
        initgroups(&self.name, self.gid)
            .and_then(|()| setegid(self.gid))
            .and_then(|()| seteuid(self.uid))
            .map_err(|err| self.cannot(err))
    }

    /// Root again, to bind.
    pub fn back_to_root(&self) -> Result<(), Failure> {
        seteuid(Uid::from_raw(0))
            .and_then(|()| setegid(Gid::from_raw(0)))
            .map_err(|err| self.cannot(err))
    }

    /// Becomes the user for good. Groups first: they cannot be changed afterwards.
    pub fn become_for_good(&self) -> Result<(), Failure> {
        initgroups(&self.name, self.gid)
            .and_then(|()| setresgid(self.gid, self.gid, self.gid))
            .and_then(|()| setresuid(self.uid, self.uid, self.uid))
            .map_err(|err| self.cannot(err))?;
        match seteuid(Uid::from_raw(0)) {
            Err(_) => Ok(()),
            Ok(()) => Err(Failure::new(
                status::NOT_PERMITTED,
                "cannot give up root: it could be taken back",
            )),
        }
    }

    fn cannot(&self, err: Errno) -> Failure {
        let message = format!("cannot become user {:?}: {}", self.name, err.desc());
        Failure::new(status::NOT_PERMITTED, message)
    }
}
