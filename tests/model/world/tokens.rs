//! Only whether two tokens are the same matters, so worlds that differ in their numbers are one.

use super::{Worker, World};
use crate::store::Token;

impl World {
    /// A token that nothing in this world knows.
    pub(super) fn fresh_token(&self) -> Token {
        self.clone().tokens().last().map_or(0, |token| token + 1)
    }

    /// The same world with its tokens numbered from 0.
    pub fn renumbered(mut self) -> World {
        let numbers = self.tokens();
        self.each_token(&mut |token| {
            *token = numbers.binary_search(token).expect("it is among them") as Token;
        });
        self
    }

    /// All of them, in order.
    fn tokens(&mut self) -> Vec<Token> {
        let mut tokens = Vec::new();
        self.each_token(&mut |token| tokens.push(*token));
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    fn each_token(&mut self, visit: &mut impl FnMut(&mut Token)) {
        for key in &mut self.store.keys {
            if let Some(reserved) = &mut key.reserved {
                visit(&mut reserved.token);
            }
        }
        if let Some((token, _)) = &mut self.word {
            visit(token);
        }
        let late = std::mem::take(&mut self.late);
        self.late = late
            .into_iter()
            .map(|mut command| {
                command.each_token(visit);
                command
            })
            .collect();
        match &mut self.worker {
            Worker::Saw(_, token) => visit(token),
            Worker::Reclaims(_, command) => command.each_token(visit),
            Worker::Opens(tokens) => tokens.iter_mut().for_each(visit),
            Worker::Opening(tokens, command) => {
                command.each_token(visit);
                tokens.iter_mut().for_each(visit);
            }
            Worker::Runs { held, .. }
            | Worker::Finishes { held, .. }
            | Worker::Measures { held, .. }
            | Worker::Closes { held, .. } => held.tokens.iter_mut().for_each(visit),
            Worker::Turns { held, next } | Worker::Wonders { held, next, .. } => {
                visit(next);
                held.tokens.iter_mut().for_each(visit);
            }
            Worker::Leaves { held, next, .. } | Worker::Missed { held, next, .. } => {
                next.iter_mut().for_each(&mut *visit);
                held.tokens.iter_mut().for_each(visit);
            }
            Worker::Looks(_) | Worker::Lost => {}
        }
    }
}
