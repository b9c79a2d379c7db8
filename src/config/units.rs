//! Sizes, durations, shares and CPU lists as people write them in settings, and back. Pure: text in, value out.
//! What range a setting allows, and how a mistake is worded, is for its caller to say.

use std::time::Duration;

/// The longest duration that is understood, ten years: far enough for "never", near enough to be added to any clock.
pub const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// The highest number of a core in a CPU list.
const MAX_CORE: usize = 4095;

/// Bytes: bare, or with a binary suffix (`512k`, `1024M`, `1.5G`).
pub fn parse_size(text: &str) -> Option<u64> {
    parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .ok()
}

/// Seconds when bare (`60`, `0.1`), else with units (`250ms`, `10s`, `1h30m`, `180d`); at most [`LONGEST`].
pub fn parse_duration(text: &str) -> Option<Duration> {
    let bare = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let duration = if bare {
        Duration::try_from_secs_f64(text.parse().ok()?).ok()?
    } else if text.bytes().any(|b| b.is_ascii_uppercase()) {
        // To humantime `5M` is five months; whoever writes it means minutes.
        return None;
    } else {
        humantime::parse_duration(text).ok()?
    };
    (duration <= LONGEST).then_some(duration)
}

/// A duration as bare seconds, e.g. `60` or `0.25`.
pub fn format_duration(duration: Duration) -> String {
    duration.as_secs_f64().to_string()
}

/// `0%` to `100%` (or a bare `0`) as 0.0 to 1.0.
pub fn parse_share(text: &str) -> Option<f64> {
    let percent: f64 = match text.strip_suffix('%') {
        Some(number) => number.trim_end().parse().ok()?,
        None if text == "0" => 0.0,
        None => return None,
    };
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

/// 0.0 to 1.0 as a percentage, to four places.
pub fn format_share(share: f64) -> String {
    format!("{}%", (share * 1e6).round() / 1e4)
}

/// Numbers and ranges separated by commas (`2-7,9`), in the order written, each core once.
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse_core(first)?, parse_core(last)?);
        if first > last {
            return None;
        }
        for core in first..=last {
            if !cores.contains(&core) {
                cores.push(core);
            }
        }
    }
    Some(cores)
}

fn parse_core(text: &str) -> Option<usize> {
    text.trim().parse().ok().filter(|core| *core <= MAX_CORE)
}

/// Cores as a list with ranges, in the order given: `2-7,9`.
pub fn format_cpu_list(cores: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => ranges.push((core, core)),
        }
    }
    let parts: Vec<String> = ranges
        .into_iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("1024M", 1 << 30),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("512k", 512 << 10),
            ("1.5G", 3 << 29),
            ("1 M", 1 << 20),
            ("4096", 4096),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1X", "99999999999G"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_seconds_when_bare() {
        for (text, ms) in [
            ("0", 0),
            ("60", 60_000),
            ("0.1", 100),
            ("2.0", 2_000),
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("180d", 15_552_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in [
            "", ".", "-1", "1e3", "inf", "nan", "5M", "ten", "1..2", "3651d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for bare in ["0", "0.1", "2.5", "3600"] {
            assert_eq!(format_duration(parse_duration(bare).unwrap()), bare);
        }
    }

    #[test]
    fn shares_are_percentages() {
        for text in ["0%", "0.5%", "7%", "10%", "33.3333%", "100%"] {
            assert_eq!(format_share(parse_share(text).unwrap()), text);
        }
        assert_eq!(parse_share("10%"), Some(0.1));
        assert_eq!(parse_share("0"), Some(0.0));
        for text in ["", "%", "10", "0.1", "101%", "-1%", "nan%"] {
            assert_eq!(parse_share(text), None, "{text}");
        }
    }

    #[test]
    fn cpu_lists_keep_their_order_and_name_each_core_once() {
        assert_eq!(parse_cpu_list("2-4,9"), Some(vec![2, 3, 4, 9]));
        assert_eq!(parse_cpu_list("3, 0 - 1,1"), Some(vec![3, 0, 1]));
        for text in ["", "a", "1-", "-1", "3-1", "1,,2", "0-99999999999", "4096"] {
            assert_eq!(parse_cpu_list(text), None, "{text}");
        }
        for text in ["0", "2-7,9", "5,0-1"] {
            assert_eq!(format_cpu_list(&parse_cpu_list(text).unwrap()), text);
        }
    }
}
