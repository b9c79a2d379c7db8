//! Commands that hand one command to the running daemon and print its answer.

use serde_json::json;

use super::answer::Answer;
use super::client;
use super::info::Info;
use super::running;
use crate::config::Config;
use crate::daemon::Failure;
use crate::resp::Reply;

/// `stark info [SECTION...]`.
pub fn info(config: &Config, sections: &[String]) -> Result<Answer, Failure> {
    let words: Vec<&str> = ["INFO"]
        .into_iter()
        .chain(sections.iter().map(String::as_str))
        .collect();
    let reply = running::ask(config, &words)?;
    let text = printed(&reply);
    let json = Info::parse(&String::from_utf8_lossy(&text)).to_json();
    Ok(Answer::new(text, json))
}

/// `stark ping`.
pub fn ping(config: &Config) -> Result<Answer, Failure> {
    plain(config, &["PING"])
}

/// `stark shutdown [now]`.
pub fn shutdown(config: &Config, words: &[&str]) -> Result<Answer, Failure> {
    plain(config, words)
}

fn plain(config: &Config, words: &[&str]) -> Result<Answer, Failure> {
    let text = printed(&running::ask(config, words)?);
    let said = String::from_utf8_lossy(&text).trim_end().to_string();
    Ok(Answer::new(text, json!({ "reply": said })))
}

fn printed(reply: &Reply) -> Vec<u8> {
    let mut text = Vec::new();
    client::print(reply, &mut text).expect("a Vec takes all that is written");
    text
}
