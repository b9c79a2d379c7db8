//! `[queue]`: where the jobs come from. Whether a server answers there shows when a worker connects.

use std::path::PathBuf;
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::check::{Check, given, quoted, text};
use super::inherit::is_at_most_once;
use super::layers::{RawQueue, Setting};
use super::{Address, Delivery, Prefetch, Queue, Retry, Secret};

const DEFAULT_KEY: &str = "stark_queue";

/// Most keys of a pool: a turn asks for the length of each until one has jobs.
const MAX_KEYS: usize = 64;

/// What `queue.timeout = 0` (PHP: none) stands for: longer than anybody waits, short enough for poll(2).
const NO_TIMEOUT: Duration = Duration::from_secs(3600);

/// Where the server is and who we are there.
struct Login {
    address: Address,
    db: u32,
    username: Option<String>,
    password: Option<String>,
}

impl Check<'_> {
    /// None if `queue.type` is `none`; the other keys are checked all the same.
    pub(super) fn queue(&mut self, queue: &RawQueue, retry: Retry) -> Option<Queue> {
        self.not_yet(&queue.sync, "normal");
        self.not_yet(&queue.lease_seconds, "");
        let is_redis = self.queue_type(&queue.r#type);
        let delivery = self.delivery(&queue.delivery);
        let login = self.login(queue);
        let timeout = self.duration(&queue.timeout, Duration::from_secs(2), Duration::ZERO);
        let queue = Queue {
            address: login.address,
            db: login.db,
            username: login.username,
            password: login.password.map(Secret),
            timeout: if timeout.is_zero() {
                NO_TIMEOUT
            } else {
                timeout.min(NO_TIMEOUT)
            },
            keys: self.keys(&queue.key),
            delivery,
            prefetch: self.prefetch(queue, delivery),
            retry,
        };
        is_redis.then_some(queue)
    }

    fn queue_type(&mut self, setting: &Option<Setting>) -> bool {
        match text(setting)
            .unwrap_or("redis")
            .to_ascii_lowercase()
            .as_str()
        {
            "redis" => return true,
            "none" => return false,
            "embedded" => self.not_yet(setting, ""),
            _ => self.value(setting, (), "redis, embedded or none", |_| None),
        }
        true
    }

    fn delivery(&mut self, setting: &Option<Setting>) -> Delivery {
        if is_at_most_once(setting) {
            return Delivery::AtMostOnce;
        }
        let is_default = |text: &str| text.eq_ignore_ascii_case("at-least-once");
        if let Some(setting) = given(setting).filter(|setting| !is_default(&setting.text)) {
            self.refuse_value(setting, "at-least-once or at-most-once");
        }
        Delivery::AtLeastOnce
    }

    /// The names, most urgent first.
    fn keys(&mut self, setting: &Option<Setting>) -> Vec<String> {
        let Some(setting) = setting else {
            return vec![DEFAULT_KEY.to_owned()];
        };
        let mut keys: Vec<String> = Vec::new();
        for key in setting.text.split_whitespace() {
            if keys.iter().any(|known| known == key) {
                self.refuse(setting, format!("{} is named twice", quoted(key)));
            }
            keys.push(key.to_owned());
        }
        if keys.is_empty() {
            self.refuse_value(setting, "the name of a list, or several");
        }
        if keys.len() > MAX_KEYS {
            let why = format!("{} names are more than {MAX_KEYS}", keys.len());
            self.refuse(setting, why);
        }
        keys
    }

    /// At most once, a job that is fetched ahead could be lost unbegun: a worker takes one.
    fn prefetch(&mut self, queue: &RawQueue, delivery: Delivery) -> Prefetch {
        let prefetch = self.value(
            &queue.prefetch,
            Prefetch::Auto,
            "a number from 1 to 1000, or auto",
            prefetch,
        );
        if delivery == Delivery::AtMostOnce && matches!(prefetch, Prefetch::Fixed(2..)) {
            self.exclusive(&queue.prefetch, &queue.delivery);
        }
        prefetch
    }

    fn login(&mut self, queue: &RawQueue) -> Login {
        let parts = [
            &queue.host,
            &queue.port,
            &queue.db,
            &queue.username,
            &queue.password,
        ];
        for part in parts {
            self.exclusive(&queue.url, part);
        }
        let login = self.login_by_parts(queue);
        match given(&queue.url) {
            Some(url) => self.login_by_url(url).unwrap_or(login),
            None => login,
        }
    }

    fn login_by_parts(&mut self, queue: &RawQueue) -> Login {
        let host = self.host(&queue.host);
        let port = self.value(&queue.port, 6379, "a port from 1 to 65535", |text| {
            text.parse().ok().filter(|port| *port > 0)
        });
        Login {
            // phpredis takes a socket's path for a host; so Stark did.
            address: match host.starts_with('/') {
                true => Address::Unix(PathBuf::from(host)),
                false => Address::Tcp(host, port),
            },
            db: self.value(&queue.db, 0, "the number of a database", |text| {
                text.parse().ok()
            }),
            username: text(&queue.username).map(str::to_owned),
            password: text(&queue.password).map(str::to_owned),
        }
    }

    fn host(&mut self, setting: &Option<Setting>) -> String {
        if let Some(url) = given(setting).filter(|setting| setting.text.contains("://")) {
            // It may hold a password, so it is not repeated.
            self.refuse(url, "the value is not a host; a URL goes to queue.url");
        } else if let Some(host) = setting
            && (host.text.is_empty() || host.text.contains(char::is_whitespace))
        {
            self.refuse_value(host, "a host, or the path of a socket");
        }
        text(setting).unwrap_or("127.0.0.1").to_owned()
    }

    /// A URL may hold a password, so mistakes never repeat it.
    fn login_by_url(&mut self, url: &Setting) -> Option<Login> {
        if url.text.starts_with("rediss:") {
            self.refuse(url, "TLS (rediss://) is not supported yet");
            return None;
        }
        let login = ["redis://", "redis+unix://"]
            .iter()
            .any(|scheme| url.text.starts_with(scheme))
            .then(|| url.text.as_str().into_connection_info().ok())
            .flatten()
            .and_then(login_of);
        if login.is_none() {
            let forms = "redis://[user:password@]host[:port][/db] or redis+unix:///path[?db=n&user=u&pass=p]";
            self.refuse(url, format!("the value is not {forms}"));
        }
        login
    }
}

fn login_of(info: ConnectionInfo) -> Option<Login> {
    let address = match info.addr() {
        ConnectionAddr::Tcp(host, port) if !host.is_empty() && *port > 0 => {
            Address::Tcp(host.clone(), *port)
        }
        ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
        _ => return None,
    };
    let settings = info.redis_settings();
    let owned = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    Some(Login {
        address,
        db: u32::try_from(settings.db()).ok()?,
        username: owned(settings.username()),
        password: owned(settings.password()),
    })
}

fn prefetch(text: &str) -> Option<Prefetch> {
    match text.eq_ignore_ascii_case("auto") {
        true => Some(Prefetch::Auto),
        false => {
            let jobs = text.parse().ok()?;
            (1..=1000).contains(&jobs).then_some(Prefetch::Fixed(jobs))
        }
    }
}
