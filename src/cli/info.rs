//! The text of `INFO` taken apart: fields by name, workers and queues as tables, all of it as one JSON object. Pure.

use serde_json::{Map, Number, Value};

/// Fields whose value is text even if it looks like a number, so that a field has one type whatever it holds.
const TEXT_FIELDS: [&str; 16] = [
    "config_file",
    "daemon_name",
    "host",
    "key",
    "name",
    "node_id",
    "pool",
    "redis_version",
    "run_id",
    "start_time",
    "started_at",
    "state",
    "type",
    "uptime_human",
    "used_memory_human",
    "version",
];

/// The lines of an `INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info(Fields);

/// A worker's or a queue's line: `key=value` pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Fields);

/// Names and values in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields(Vec<(String, String)>);

impl Info {
    /// Takes the text apart; heads of sections and what is no field are skipped.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(Fields::split(lines, ':'))
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    /// A field's value as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// The lines of the workers, in their order.
    pub fn workers(&self) -> Vec<Row> {
        self.rows("worker")
    }

    /// The lines of the queues, in their order.
    pub fn queues(&self) -> Vec<Row> {
        self.rows("queue")
    }

    fn rows(&self, kind: &str) -> Vec<Row> {
        let rows = self.0.0.iter().filter(|(name, _)| is_row(name, kind));
        let row = |line: &str| Row(Fields::split(line.split(','), '='));
        rows.map(|(_, line)| row(line)).collect()
    }

    /// All of it as one object; workers and queues are arrays of objects, and left out when there are none.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        for (kind, name) in [("worker", "workers"), ("queue", "queues")] {
            let rows: Vec<Value> = self.rows(kind).iter().map(Row::to_json).collect();
            if !rows.is_empty() {
                object.insert(name.into(), Value::Array(rows));
            }
        }
        for (name, value) in &self.0.0 {
            if !is_row(name, "worker") && !is_row(name, "queue") {
                object.insert(name.clone(), typed(name, value));
            }
        }
        Value::Object(object)
    }
}

impl Row {
    /// A pair's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    /// A pair's value as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    fn to_json(&self) -> Value {
        let pairs = self.0.0.iter();
        Value::Object(
            pairs
                .map(|(name, value)| (name.clone(), typed(name, value)))
                .collect(),
        )
    }
}

impl Fields {
    fn split<'a>(parts: impl Iterator<Item = &'a str>, separator: char) -> Self {
        let pairs = parts.filter_map(|part| part.split_once(separator));
        let owned = |(name, value): (&str, &str)| (name.to_string(), value.trim_end().to_string());
        Self(pairs.map(owned).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// `worker0` is a row of kind `worker`, `worker_max` is none.
fn is_row(name: &str, kind: &str) -> bool {
    let number = name.strip_prefix(kind);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn typed(name: &str, value: &str) -> Value {
    if name == "key" {
        return Value::String(percent_decoded(value));
    }
    let number = || {
        let whole = value.parse::<u64>().map(Number::from);
        let whole = whole.or_else(|_| value.parse::<i64>().map(Number::from));
        whole.ok().or_else(|| Number::from_f64(value.parse().ok()?))
    };
    match TEXT_FIELDS.contains(&name) {
        true => None,
        false => number(),
    }
    .map_or_else(|| Value::String(value.into()), Value::Number)
}

/// A queue's key as it is in the settings; `INFO` encodes what would separate fields.
pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        // from_str_radix takes a sign, too.
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    // Settings are UTF-8; what is none was never a key of ours.
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Master\r\nname:7\r\nstate:running\r\nport:9003\r\nnode_id:1234567890123456\r\n\
        \r\n# Worker\r\nworker_max:2\r\n\
        worker0:pool=1e3,pid=4711,state=busy,core=-1\r\nworker1:pool=1e3,pid=0,state=waiting,core=1\r\n\
        \r\n# Queue\r\nqueue0:key=a%2Cb%20%C3%A9%25,type=redis,connected=1\r\n\
        \r\n# Stats\r\nrun_qps:12.50\r\nodd:inf\r\nconfig_file:/a:b.ini\r\n";

    #[test]
    fn fields_are_found_by_name_and_rows_in_their_order() {
        let info = Info::parse(TEXT);
        assert_eq!(info.get("config_file"), Some("/a:b.ini"));
        assert_eq!(info.number("worker_max"), Some(2));
        assert_eq!(info.get("missing"), None);
        let pids = info
            .workers()
            .iter()
            .map(|w| w.number("pid"))
            .collect::<Vec<_>>();
        assert_eq!(pids, [Some(4711), Some(0)]);
        assert_eq!(info.queues().len(), 1);
    }

    #[test]
    fn numbers_are_numbers_names_are_text_whatever_they_look_like() {
        let expected = serde_json::json!({
            "name": "7", "state": "running", "port": 9003, "node_id": "1234567890123456", "worker_max": 2,
            "workers": [
                {"pool": "1e3", "pid": 4711, "state": "busy", "core": -1},
                {"pool": "1e3", "pid": 0, "state": "waiting", "core": 1},
            ],
            "queues": [{"key": "a,b \u{e9}%", "type": "redis", "connected": 1}],
            "run_qps": 12.5, "odd": "inf", "config_file": "/a:b.ini",
        });
        assert_eq!(Info::parse(TEXT).to_json(), expected);
    }

    #[test]
    fn sections_without_rows_have_no_empty_tables() {
        assert_eq!(
            Info::parse("# CPU\r\nused_cpu_sys:0.5\r\n").to_json(),
            serde_json::json!({"used_cpu_sys": 0.5})
        );
    }

    #[test]
    fn what_is_no_percent_code_stays_as_it_is() {
        for (encoded, decoded) in [
            ("a%2", "a%2"),
            ("%zz", "%zz"),
            ("%", "%"),
            ("%FF", "%FF"),
            ("%+1", "%+1"),
            ("%41", "A"),
        ] {
            assert_eq!(percent_decoded(encoded), decoded, "{encoded}");
        }
    }
}
