//! Named pools: which there are, what they inherit and what replaces it, how environment and command line reach them,
//! and which slips are told.

use std::time::Duration;

use stark::config::{Address, Builtin, Config, Delivery, Pool, Prefetch, Program};

use super::place::{Place, mistakes};

fn names(config: &Config) -> Vec<&str> {
    config.pools.iter().map(|pool| pool.name.as_str()).collect()
}

fn pool<'a>(config: &'a Config, name: &str) -> &'a Pool {
    let found = config.pools.iter().find(|pool| pool.name == name);
    found.unwrap_or_else(|| panic!("no pool {name} in {:?}", names(config)))
}

fn script_of(pool: &Pool) -> (String, Vec<String>) {
    match &pool.run.program {
        Program::Script { file, interpreter } => {
            let name = file.file_name().unwrap().to_string_lossy();
            (name.into_owned(), interpreter.clone())
        }
        Program::Builtin(builtin) => panic!("runs {builtin:?}"),
    }
}

/// The warnings of an ini without mistakes.
fn warnings(ini: &str) -> Vec<String> {
    Place::new().load(ini).unwrap().warnings
}

#[test]
fn a_named_pool_inherits_each_key_that_it_does_not_give() {
    let place = Place::new();
    place.write("mail.php", "");
    let config = place.config(
        "[run]\nscript_file = run.php\nmemory_limit = 64M\ninterpreter = php -n\n\
         [worker]\ncount = 2\nnice = 3\n[queue]\nport = 7000\nkey = jobs\ntimeout = 9\n\
         [env]\nA = 1\nB = 2\n\
         [run mail]\nscript_file = mail.php\n[worker mail]\ncount = 5\n[queue mail]\nkey = mails\n\
         [env mail]\nB = 3\nC = 4\n",
    );
    assert_eq!(names(&config), ["worker", "mail"]);
    let mail = pool(&config, "mail");
    assert_eq!(
        script_of(mail),
        ("mail.php".into(), vec!["php".into(), "-n".into()])
    );
    assert_eq!(mail.run.memory_limit_bytes, 64 << 20);
    assert_eq!((mail.worker.count, mail.worker.nice), (5, 3));
    let queue = mail.queue.as_ref().unwrap();
    assert_eq!(queue.address, Address::Tcp("127.0.0.1".into(), 7000));
    assert_eq!(queue.keys, ["mails"]);
    assert_eq!(queue.timeout, Duration::from_secs(9));
    let env = |pool: &Pool| format!("{:?}", pool.env);
    assert_eq!(env(mail), r#"{"A": "1", "B": "3", "C": "4"}"#);
    let default = pool(&config, "worker");
    assert_eq!(env(default), r#"{"A": "1", "B": "2"}"#);
    assert_eq!(default.worker.count, 2);
    assert_eq!(default.queue.as_ref().unwrap().keys, ["jobs"]);
}

#[test]
fn the_default_pool_is_first_and_only_there_if_it_has_something_to_run() {
    let place = Place::new();
    let config = place.config(
        "[worker Zoo]\n[run a]\n[env zoo]\n[main]\nname = D\n[run]\nbuiltin = null\n[worker b]\n",
    );
    assert_eq!(names(&config), ["D", "zoo", "a", "b"]);
    let config = place.config("[worker]\ncount = 3\n[run mail]\nbuiltin = echo\n");
    assert_eq!(names(&config), ["mail"]);
    assert_eq!(config.pools[0].worker.count, 3);
    let config = place
        .config("[run]\nscript_file =\nmemory_limit = 2M\n[run mail]\nbuiltin = null\n[queue]\n");
    assert_eq!(names(&config), ["mail"]);
    assert_eq!(
        mistakes("[queue]\n[worker]\n[run]\n"),
        "",
        "the test's own run"
    );
}

#[test]
fn a_pool_without_anything_to_run_is_told_what_to_set() {
    let load = |ini: &str| Place::new().load(ini).unwrap_err();
    assert_eq!(
        load("[worker]\n[worker mail]\ncount = 2\n[env sms]\nA = 1\n"),
        "worker.ini:2: pool mail: nothing to run; set script_file or builtin in [run mail]\n\
         worker.ini:4: pool sms: nothing to run; set script_file or builtin in [run sms]"
    );
    assert_eq!(
        load("[run]\nbuiltin = null\n[run mail]\nbuiltin =\n"),
        "worker.ini:3: pool mail: nothing to run; set script_file or builtin in [run mail]"
    );
    assert_eq!(
        load("[worker]\n"),
        "worker.ini: run: nothing to run; set run.script_file or run.builtin"
    );
}

#[test]
fn what_a_pool_runs_replaces_what_it_would_inherit() {
    let place = Place::new();
    place.write("mail.PHP", "");
    let config = place.config(
        "[run]\nscript_file = run.php\ninterpreter = php -n\n[run a]\nbuiltin = echo\n\
         [run b]\nscript_file = mail.PHP\n[run c]\ninterpreter = php8\n",
    );
    let [_, a, b, c] = &config.pools[..] else {
        panic!("four pools")
    };
    assert_eq!(a.run.program, Program::Builtin(Builtin::Echo));
    // The default for builtins, since nobody set another.
    assert_eq!(a.worker.max_run_count, None);
    assert_eq!(b.worker.max_run_count, Some(10_000));
    assert_eq!(
        script_of(b),
        ("mail.PHP".into(), vec!["php".into(), "-n".into()])
    );
    assert_eq!(script_of(c), ("run.php".into(), vec!["php8".into()]));
    // One interpreter for the scripts of all pools.
    let config = place.config("[run]\ninterpreter = php -n\n[run a]\nscript_file = run.php\n");
    assert_eq!(script_of(&config.pools[0]).1, ["php", "-n"]);
    // From a builtin to a script.
    let config = place.config("[run]\nbuiltin = null\n[run a]\nscript_file = run.php\n");
    assert_eq!(
        script_of(&config.pools[1]),
        ("run.php".into(), vec!["php".into()])
    );
    assert_eq!(
        place
            .load("[run]\nbuiltin = null\n[run a]\nscript_file = run.php\nbuiltin = echo\n")
            .unwrap_err(),
        "worker.ini:5: run a.builtin: contradicts run a.script_file (worker.ini:4)"
    );
}

#[test]
fn an_interpreter_of_another_language_is_not_inherited() {
    let place = Place::new();
    place.write("mail.py", "");
    // Refused for now, and the only mistake: python3 would have been inherited by the PHP script.
    assert_eq!(
        place
            .load("[run]\nscript_file = mail.py\ninterpreter = \"python3 'x\"\n[run a]\nscript_file = run.php\n")
            .unwrap_err(),
        "worker.ini:2: run.script_file: \"mail.py\": scripts other than .php are not supported yet\n\
         worker.ini:3: run.interpreter: \"python3 'x\" is not a program with arguments (check the quotes)"
    );
}

#[test]
fn a_pool_has_a_queue_of_its_own_an_inherited_one_or_none() {
    let place = Place::new();
    let config = place.config("[run]\nbuiltin = null\n[queue mail]\nkey = mails\n[run loop]\n");
    let has_queue = |config: &Config| -> Vec<bool> {
        config
            .pools
            .iter()
            .map(|pool| pool.queue.is_some())
            .collect()
    };
    assert_eq!(has_queue(&config), [false, true, false]);
    let config = place.config(
        "[run]\nbuiltin = null\n[queue]\nkey = a\n[queue loop]\ntype = none\n[queue mail]\nkey = b\n",
    );
    assert_eq!(has_queue(&config), [true, false, true]);
    let none =
        "[run]\nbuiltin = null\n[queue]\ntype = none\nport = 7000\n[queue mail]\nkey = mails\n";
    assert_eq!(
        place.load(none).unwrap_err(),
        "worker.ini:6: pool mail: [queue mail] is of no use with queue.type = none (worker.ini:4); \
         set queue mail.type = redis"
    );
    let config = place.config(&format!("{none}type = redis\n"));
    let queue = config.pools[1].queue.as_ref().unwrap();
    assert_eq!(queue.address, Address::Tcp("127.0.0.1".into(), 7000));
}

#[test]
fn a_url_and_its_parts_replace_each_other_when_they_are_inherited() {
    let place = Place::new();
    let queue = |ini: &str| {
        let ini = format!("[run]\nbuiltin = null\n{ini}");
        let loaded = place
            .load(&ini)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        loaded.config.pools[1].queue.clone().unwrap()
    };
    let by_url = queue(
        "[queue]\nhost = h\nport = 1\ndb = 2\nusername = me\npassword = p\n[queue a]\nurl = redis://b:9\n",
    );
    assert_eq!(by_url.address, Address::Tcp("b".into(), 9));
    assert_eq!(
        (by_url.db, by_url.username, by_url.password),
        (0, None, None)
    );
    let by_host = queue("[queue]\nurl = redis://me:p@b:9/2\n[queue a]\nhost = /run/r.sock\n");
    assert_eq!(by_host.address, Address::Unix("/run/r.sock".into()));
    assert_eq!(
        (by_host.db, by_host.username, by_host.password),
        (0, None, None)
    );
    let inherited = queue("[queue]\nurl = redis://b:9/2\n[queue a]\nkey = k\n");
    assert_eq!(inherited.address, Address::Tcp("b".into(), 9));
    // Whether db belongs to the URL's server or to the default one cannot be told.
    assert_eq!(
        place
            .load("[run]\nbuiltin = null\n[queue]\nurl = redis://b:9\n[queue a]\ndb = 3\n")
            .unwrap_err(),
        "worker.ini:6: queue a.db: contradicts queue.url (worker.ini:4)"
    );
}

#[test]
fn names_of_pools_are_for_files_and_keys() {
    for (good, name) in [
        ("mail", "mail"),
        ("MAIL-2", "mail-2"),
        ("a.b_c", "a.b_c"),
        ("1", "1"),
    ] {
        let config = Place::new().config(&format!("[run {good}]\nbuiltin = null\n"));
        assert_eq!(names(&config), [name]);
    }
    let long = "a".repeat(65);
    for bad in [
        "a b",
        "a:b",
        "a/b",
        "ü",
        "..",
        ".a",
        "-a",
        "_a",
        "{a}",
        long.as_str(),
    ] {
        let told = mistakes(&format!("[worker {bad}]\ncount = x\n"));
        assert_eq!(
            told,
            format!(
                "worker.ini:1: [worker {bad}]: {bad:?} is no name of a pool: 1 to 64 letters, digits, '.', '_' and '-', \
                 the first a letter or a digit"
            )
        );
    }
    assert_eq!(
        mistakes("[main x]\nport = 1"),
        "worker.ini:1: [main x]: [main] has no name"
    );
    for default in ["[run]\nbuiltin = null\n", ""] {
        let ini = format!("[main]\nname = Mail\n[run mail]\nbuiltin = null\n{default}");
        assert_eq!(
            Place::new().load(&ini).unwrap_err(),
            "worker.ini:3: pool mail: has the daemon's name, which is the default pool's; choose another, or set main.name"
        );
    }
}

#[test]
fn a_section_that_resembles_one_of_a_pool_is_a_mistake() {
    for (written, meant) in [
        ("wroker mail", "worker mail"),
        ("queues mail", "queue mail"),
        ("worker.mail", "worker mail"),
        ("queue:mail", "queue mail"),
        ("mian mail", "main"),
    ] {
        assert_eq!(
            mistakes(&format!("[{written}]\nx = 1\n")),
            format!("worker.ini:1: [{written}]: unknown section; did you mean [{meant}]?")
        );
    }
    assert_eq!(
        mistakes("[worker mail]\ncuont = 1\nhost = a\nzebra = 1\n[retry mail]\nbackoff = 1\n"),
        "worker.ini:2: worker mail.cuont: unknown key; did you mean worker mail.count?\n\
         worker.ini:3: worker mail.host: unknown key; did you mean queue mail.host?\n\
         worker.ini:4: worker mail.zebra: unknown key; [worker mail] has count, max_run_count, max_run_seconds, \
         max_idle_seconds, jitter, empty_sleep_seconds, start_seconds, affinity, nice\n\
         worker.ini:6: retry mail.backoff: unknown key; did you mean retry mail.backoff_seconds?"
    );
}

#[test]
fn a_mistake_that_all_pools_inherit_is_told_once() {
    assert_eq!(
        mistakes("[worker]\ncount = x\n[worker a]\nnice = 1\n[worker b]\nnice = y\n"),
        "worker.ini:2: worker.count: \"x\" is not a number from 1 to 4096, or auto\n\
         worker.ini:6: worker b.nice: \"y\" is not a number from -20 to 19"
    );
    // Also where each pool has a value of its own.
    assert_eq!(
        Place::new()
            .load("[worker]\ncount = x\n[run a]\nbuiltin = null\n[worker a]\ncount = 1\n")
            .unwrap_err(),
        "worker.ini:2: worker.count: \"x\" is not a number from 1 to 4096, or auto"
    );
}

#[test]
fn variables_and_arguments_reach_the_pools_of_the_file() {
    let ini =
        "[run]\nbuiltin = null\n[worker mail]\nnice = 1\n[env my-big.pool]\nA = 1\n[worker a__b]\n";
    let config = Place::new()
        .variable("STARK_WORKER_MAIL__COUNT", "2")
        .variable("STARK_worker_mail__nice", "2")
        .variable("STARK_WORKER_MY_BIG_POOL__COUNT", "3")
        .variable("STARK_ENV_MY_BIG_POOL__A__B", "x")
        .variable("STARK_WORKER_A__B__COUNT", "4")
        .set("worker mail.nice=3")
        .set("worker my-big.pool.nice=4")
        .set("env my-big.pool.A=y=z")
        .set("Queue MAIL.key=mails")
        .config(ini);
    let worker = |name: &str| {
        let worker = &pool(&config, name).worker;
        (worker.count, worker.nice)
    };
    assert_eq!(worker("worker"), (1, 0));
    assert_eq!(worker("mail"), (2, 3));
    assert_eq!(worker("my-big.pool"), (3, 4));
    assert_eq!(worker("a__b"), (4, 0));
    let env = format!("{:?}", pool(&config, "my-big.pool").env);
    assert_eq!(env, r#"{"A": "y=z", "A__B": "x"}"#);
    assert_eq!(
        pool(&config, "mail").queue.as_ref().unwrap().keys,
        ["mails"]
    );
}

#[test]
fn a_variable_for_no_pool_or_for_two_is_a_mistake_that_names_them() {
    let place = Place::new()
        .variable("STARK_WORKER_MIAL__COUNT", "2")
        .variable("STARK_WORKER_A_B__COUNT", "2")
        .variable("STARK_WORKER___COUNT", "2")
        .set("worker mial.count=2")
        .set("worker a_b.count=2");
    assert_eq!(
        place
            .load("[run]\nbuiltin = null\n[worker mail]\n[worker a-b]\n[worker a.b]\n")
            .unwrap_err(),
        "STARK_WORKER_A_B__COUNT: [worker a_b]: may mean the pools a-b, a.b\n\
         STARK_WORKER_MIAL__COUNT: [worker mial]: no such pool; the file has mail, a-b, a.b\n\
         STARK_WORKER___COUNT: [worker_]: unknown section; did you mean [worker]?\n\
         --set: [worker a_b]: no such pool; the file has mail, a-b, a.b\n\
         --set: [worker mial]: no such pool; the file has mail, a-b, a.b"
    );
    let place = Place::new().set("worker mail.count=2");
    assert_eq!(
        place.load("[run]\nbuiltin = null\n").unwrap_err(),
        "--set: [worker mail]: no such pool; the file has no sections of named pools"
    );
}

#[test]
fn all_pools_together_have_an_end() {
    let pools = |count: usize, keys: &str| -> String {
        let section = |i: usize| match keys {
            "" => format!("[run p{i}]\nbuiltin = null\n"),
            _ => format!(
                "[queue p{i}]\nkey = {}\n",
                keys.replace('K', &i.to_string())
            ),
        };
        (0..count).map(section).collect()
    };
    let load = |ini: &str| match Place::new().load(ini) {
        Ok(loaded) => format!("{} pools", loaded.config.pools.len()),
        Err(mistakes) => mistakes,
    };
    assert_eq!(load(&pools(256, "")), "256 pools");
    assert_eq!(
        load(&pools(257, "")),
        "worker.ini:513: pool p256: there are more than 256"
    );
    let sum = |more: usize| {
        format!("[run]\nbuiltin = null\n[worker]\ncount = 2048\n[worker a]\ncount = {more}\n")
    };
    assert_eq!(load(&sum(2048)), "2 pools");
    assert_eq!(
        load(&sum(2049)),
        "worker.ini: worker.count: workers of all pools together: 4097 are more than 4096"
    );
    let keys: String = (0..64).map(|i| format!(" kK-{i}")).collect();
    let with_run = |pools: &str| format!("[run]\nbuiltin = null\n{pools}");
    assert_eq!(load(&with_run(&pools(16, &keys))), "17 pools");
    assert_eq!(
        load(&with_run(&pools(17, &keys))),
        "worker.ini: queue.key: names in all pools together: 1088 are more than 1024"
    );
    assert_eq!(
        mistakes(&format!("[queue]\nkey = {keys} more")),
        "worker.ini:2: queue.key: 65 names are more than 64"
    );
}

#[test]
fn two_pools_that_take_from_one_list_deserve_a_word() {
    let base = "[run]\nbuiltin = null\n[queue]\nkey = a b\n";
    assert_eq!(
        warnings(&format!(
            "{base}[run mail]\nbuiltin = echo\n[queue mail]\nkey = c b\n"
        )),
        [
            "worker.ini: queue.key: the pools worker, mail take from one list, \"b\" at 127.0.0.1:6379, database 0: \
             each job goes to any one of them"
        ]
    );
    for other in ["key = c", "db = 1", "port = 1", "type = none"] {
        let ini = format!("{base}[queue mail]\n{other}\n");
        assert_eq!(warnings(&ini), [""; 0], "{other}");
    }
}

#[test]
fn several_keys_keep_their_order_and_are_named_once() {
    let config = super::config("[queue]\nkey = \" high\t low  lowest \"");
    let keys = &config.pools[0].queue.as_ref().unwrap().keys;
    assert_eq!(keys, &["high", "low", "lowest"]);
    assert_eq!(
        mistakes("[queue]\nqueueKey = a b a"),
        "worker.ini:2: queue.key: \"a\" is named twice"
    );
}

#[test]
fn at_most_once_goes_with_nothing_that_keeps_or_repeats_jobs() {
    let queue = |ini: &str| super::config(ini).pools.remove(0).queue.unwrap();
    for prefetch in ["", "prefetch = auto\n", "prefetch = 1\n"] {
        let queue = queue(&format!("[queue]\ndelivery = at-most-once\n{prefetch}"));
        assert_eq!(queue.delivery, Delivery::AtMostOnce);
    }
    assert_eq!(queue("[queue]\n").delivery, Delivery::AtLeastOnce);
    assert_eq!(
        mistakes("[queue]\nprefetch = 2\ndelivery = at-most-once\n[retry]\nmax_attempts = 5\n"),
        "worker.ini:3: queue.delivery: contradicts queue.prefetch (worker.ini:2)\n\
         worker.ini:5: retry.max_attempts: contradicts queue.delivery (worker.ini:3)"
    );
    // A pool that pops for good inherits no second runs; others do, key by key.
    let config = Place::new().config(
        "[run]\nbuiltin = null\n[queue]\nkey = a\n[retry]\nmax_attempts = 7\nbackoff_seconds = 9\n\
         [queue b]\ndelivery = at-most-once\nkey = b\n[queue c]\nkey = c\n[retry c]\nmax_attempts = 0\n",
    );
    let retry = |place: usize| config.pools[place].queue.clone().unwrap().retry;
    assert_eq!(retry(0).max_attempts.map(|max| max.get()), Some(7));
    assert_eq!(retry(1), stark::config::Retry::default());
    assert_eq!(retry(2).max_attempts, None);
    assert_eq!(retry(2).backoff.as_secs(), 9);
    // What a pool inherits gives way to its own delivery; what it says itself does not.
    let config = Place::new().config(
        "[run]\nbuiltin = null\n[queue]\nprefetch = 9\nkey = a\n[queue b]\ndelivery = at-most-once\nkey = b\n",
    );
    let own = config.pools[1].queue.as_ref().unwrap();
    assert_eq!(
        (own.delivery, own.prefetch),
        (Delivery::AtMostOnce, Prefetch::Auto)
    );
    assert_eq!(
        mistakes("[queue]\ndelivery = at-most-once\nkey = a\n[queue b]\nprefetch = 9\nkey = b\n"),
        "worker.ini:5: queue b.prefetch: contradicts queue.delivery (worker.ini:2)"
    );
}

#[test]
fn pools_of_one_server_and_of_one_queue_tell_of_them_together() {
    let loaded = Place::new().load(
        "[run]\nbuiltin = null\n[queue]\nkey = a b\n\
         [run same]\nbuiltin = null\n[queue same]\nkey = b\n\
         [run other]\nbuiltin = null\n[queue other]\nport = 7000\nkey = a\n\
         [run db]\nbuiltin = null\n[queue db]\ndb = 1\nkey = a\n\
         [run none]\nbuiltin = null\n[queue none]\ntype = none\n",
    );
    let config = loaded.unwrap().config;
    let numbers = |name: &str| {
        let place = config.pools.iter().position(|pool| pool.name == name);
        let numbers = config.queue_numbers(place.unwrap())?;
        Some((numbers.of_server, numbers.own))
    };
    assert_eq!(config.queues(), [(0, 0), (0, 1), (2, 0), (3, 0)]);
    assert_eq!(numbers("worker"), Some((0, 0)));
    assert_eq!(numbers("same"), Some((0, 1)));
    assert_eq!(numbers("other"), Some((2, 2)));
    assert_eq!(numbers("db"), Some((0, 3)));
    assert_eq!(numbers("none"), None);
}
