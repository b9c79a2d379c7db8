//! `--print-config`: what it prints means the same when it is read again, whatever the settings, and shows no secret.

use stark::config::{Config, to_ini};

use super::SEED;
use super::place::Place;

#[test]
fn printed_settings_mean_the_same_when_they_are_read_again() {
    let place = Place::new();
    for ini in [
        SEED,
        "[run]\nbuiltin = probe\nmemory_limit = -1\n",
        "[main]\nlog_file = -\nlog_level = debug\nuser = www\ngroup = www\nheartbeat_seconds = 250ms\n\
         unixsocket = run/w.sock\n\
         [run]\nscript_file = run.php\ninterpreter = php -d 'a b=\"1\"' \"it's\"\n\
         [worker]\njitter = 7%\naffinity = 0-1,5\nnice = -3\nmax_idle_seconds = 1m\nempty_sleep_seconds = 0.05\n\
         [queue]\nhost = /run/redis.sock\ndb = 4\nusername = me\nprefetch = 7\nkey = high low\n\
         [env]\nQuote = 'say \"x\"'\nHome = '${HOME}'\nClass = App\\Job\nEmpty =\n",
        "[main]\nlog_file = x.log\n[run]\nbuiltin = null\n[queue]\ntype = none\n",
        "[run]\nscript_file = run.php\ninterpreter = php -n\n[queue]\nusername = me\nhost = /run/redis.sock\nprefetch = 9\n\
         [env]\nA = 1\n[queue a]\ntype = none\n[queue b]\nusername =\nhost = h\nkey = b\ndelivery = at-most-once\n\
         [run c]\nbuiltin = null\n[queue c]\nkey = c\n[env c]\nA =\nB = 2\n[worker d.e-f]\ncount = auto\n[queue d.e-f]\nkey = d\n",
        "[worker]\ncount = 3\n[queue]\nkey = a\n[env]\nA = 1\n[run zoo]\nbuiltin = null\n[run ape]\nbuiltin = echo\n\
         [queue ape]\nkey = b\n",
    ] {
        let config = place.config(ini);
        let printed = to_ini(&config);
        assert_eq!(place.config(&printed), config, "{printed}");
    }
}

/// Lines that may stand in a section, each key at most once, none of them a secret.
const LINES: [(&str, &[&[&str]]); 5] = [
    (
        "run",
        &[
            &["script_file = run.php", "builtin = null", "builtin = probe"],
            &["interpreter = php8 -n", "interpreter = \"php 'a b'\""],
            &["memory_limit = 64M", "memory_limit = -1"],
        ],
    ),
    (
        "worker",
        &[
            &["count = 2", "count = 7", "count = auto"],
            &["max_run_count = 0", "max_run_count = 3"],
            &["max_run_seconds = 0", "max_run_seconds = 90s"],
            &["max_idle_seconds = 250ms", "max_idle_seconds = 1h"],
            &["jitter = 0", "jitter = 33%"],
            &["empty_sleep_seconds = 0.3"],
            &["start_seconds = 5"],
            &["affinity = none", "affinity = 4,0-1"],
            &["nice = -3", "nice = 19"],
        ],
    ),
    (
        "queue",
        &[
            &["type = none", "type = redis"],
            &["host = h", "host = /run/r.sock", "url = redis://u:9/2"],
            &["port = 7000"],
            &["db = 3"],
            &["username = me", "username ="],
            &["timeout = 0.5", "timeout = 0"],
            &["key = a b c", "key = d", "key = \"e\tf\""],
            &["delivery = at-most-once", "delivery = at-least-once"],
            &["prefetch = 9", "prefetch = 1"],
        ],
    ),
    (
        "retry",
        &[
            &["max_attempts = 0", "max_attempts = 9"],
            &["backoff_seconds = 0", "backoff_seconds = 1500ms"],
            &["backoff_max_seconds = 90s", "backoff_max_seconds = 1d"],
            &["max_crashes = 0", "max_crashes = 1"],
            &["dead_max = 1", "dead_max = 77"],
            &["dead_seconds = 0", "dead_seconds = 7d"],
        ],
    ),
    (
        "env",
        &[
            &["A = 1", "A = 'x \"y\"'"],
            &["B =", "B = it's"],
            &["c.D = 2"],
        ],
    ),
];

/// xorshift64*.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end
    }
}

/// An ini that is probably without mistakes.
fn random_ini(seed: u64) -> String {
    let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut ini = String::from("[main]\nname = d\n");
    let names = ["", " mail", " a.b", " a-b", " z_1"];
    for name in &names[..1 + chance.below(names.len())] {
        for (kind, keys) in LINES {
            let skipped = match kind {
                // Most pools need something to run.
                "run" => 1,
                _ => 2,
            };
            if chance.below(4) < skipped {
                continue;
            }
            ini += &format!("[{kind}{name}]\n");
            for lines in keys {
                let more = if kind == "run" { 1 } else { 3 * lines.len() };
                if let Some(line) = lines.get(chance.below(lines.len() + more)) {
                    ini += &format!("{line}\n");
                }
            }
        }
    }
    ini
}

#[test]
fn any_settings_that_are_accepted_are_printed_so_that_they_mean_the_same() {
    let place = Place::new();
    let read = |ini: &str| -> Result<Config, String> { Ok(place.load(ini)?.config) };
    let (mut accepted, mut of_several) = (0, 0);
    for seed in 0..1000 {
        let ini = random_ini(seed);
        let Ok(config) = read(&ini) else { continue };
        let printed = to_ini(&config);
        let again = read(&printed).unwrap_or_else(|told| panic!("seed {seed}: {told}\n{printed}"));
        assert_eq!(again, config, "seed {seed}\n{ini}\nprinted:\n{printed}");
        assert_eq!(to_ini(&again), printed, "seed {seed}");
        accepted += 1;
        of_several += usize::from(config.pools.len() > 1);
    }
    assert!(
        accepted > 400 && of_several > 300,
        "{accepted} accepted, {of_several} of several pools"
    );
}

#[test]
fn printed_settings_show_no_secret() {
    let place = Place::new();
    let ini = "[main]\npassword = hunter2\nreadonly_password = hunter2b\n\
               [run]\nbuiltin = null\n[queue]\npassword = hunter2\n\
               [env]\nAPI_TOKEN = hunter2\nDSN = mysql://me:hunter2@db/app\nAPP_ENV = dev\n\
               [queue mail]\nkey = mails\n[queue sms]\nkey = sms\npassword =\n[env sms]\nAPI_TOKEN = hunter2c\n";
    let printed = to_ini(&place.config(ini));
    assert!(!printed.contains("hunter2"), "{printed}");
    let masked = printed.matches("\npassword = \"\"").count();
    assert_eq!(masked, 1, "sms has none: {printed}");
    assert_eq!(printed.matches("\n;password = \"***\"").count(), 3);
    assert_eq!(printed.matches("\n;readonly_password = \"***\"").count(), 1);
    let again = place.config(&printed);
    assert_eq!(again.main.password, None);
    for pool in again.pools {
        assert_eq!(pool.queue.unwrap().password, None);
        assert_eq!(pool.env.keys().collect::<Vec<_>>(), ["APP_ENV"]);
    }
}
