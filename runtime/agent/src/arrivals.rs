//! Connections that are not with their process yet.
//!
//! Streams and the connection of their process come in any order, each by itself. A process is complete
//! when all streams that it has announced are there; whoever has waited too long is sent away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wire::{StreamName, Streams, Token};

/// How long a connection may take to say what it is, and to be joined by what belongs to it.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A process with everything that belongs to it.
#[derive(Debug)]
pub struct Complete<P, S> {
    /// Its connection and what is to be made.
    pub process: P,
    /// Standard input, output and error.
    pub streams: [Option<S>; 3],
}

/// Processes `P` that wait for their streams `S`, and the other way round.
#[derive(Debug)]
pub struct Arrivals<P, S> {
    processes: BTreeMap<Token, (P, Streams, Instant)>,
    streams: BTreeMap<(Token, StreamName), (S, Instant)>,
}

/// What came a second time: given back.
#[derive(Debug)]
pub struct Twice<T>(pub T);

const NAMES: [StreamName; 3] = [StreamName::Stdin, StreamName::Stdout, StreamName::Stderr];

impl<P, S> Arrivals<P, S> {
    /// Nobody.
    pub fn new() -> Self {
        Self { processes: BTreeMap::new(), streams: BTreeMap::new() }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.processes.len() + self.streams.len()
    }

    /// Adds a process, and returns it with its streams when they are all there.
    ///
    /// # Errors
    /// Another one waits under this token.
    pub fn process(
        &mut self,
        token: Token,
        streams: Streams,
        process: P,
        now: Instant,
    ) -> Result<Option<Complete<P, S>>, Twice<P>> {
        if self.processes.contains_key(&token) {
            return Err(Twice(process));
        }
        self.processes.insert(token.clone(), (process, streams, now + DEADLINE));
        Ok(self.complete(&token))
    }

    /// Adds a stream, and returns its process when that is complete with it.
    ///
    /// # Errors
    /// That stream of the process is there already.
    pub fn stream(
        &mut self,
        token: Token,
        name: StreamName,
        stream: S,
        now: Instant,
    ) -> Result<Option<Complete<P, S>>, Twice<S>> {
        let key = (token, name);
        if self.streams.contains_key(&key) {
            return Err(Twice(stream));
        }
        let token = key.0.clone();
        self.streams.insert(key, (stream, now + DEADLINE));
        Ok(self.complete(&token))
    }

    fn complete(&mut self, token: &Token) -> Option<Complete<P, S>> {
        let (_, streams, _) = self.processes.get(token)?;
        let announced = [streams.stdin, streams.stdout, streams.stderr];
        let key = |name| (token.clone(), name);
        let mut wanted = NAMES.into_iter().zip(announced).filter(|(_, announced)| *announced);
        if !wanted.all(|(name, _)| self.streams.contains_key(&key(name))) {
            return None;
        }
        let (process, ..) = self.processes.remove(token)?;
        // Streams that were not announced are closed with it.
        let taken = NAMES.map(|name| self.streams.remove(&key(name)));
        let mut taken = taken.into_iter().zip(announced);
        let streams = [(); 3]
            .map(|()| taken.next().and_then(|(stream, announced)| stream.filter(|_| announced)));
        Some(Complete { process, streams: streams.map(|stream| stream.map(|(stream, _)| stream)) })
    }

    /// When the first of them has waited too long.
    pub fn next_deadline(&self) -> Option<Instant> {
        let processes = self.processes.values().map(|(.., deadline)| *deadline);
        processes.chain(self.streams.values().map(|(_, deadline)| *deadline)).min()
    }

    /// Sends away who has waited too long: streams are closed, processes returned.
    pub fn expire(&mut self, now: Instant) -> Vec<P> {
        self.streams.retain(|_, (_, deadline)| *deadline > now);
        let late: Vec<Token> = self
            .processes
            .iter()
            .filter(|(_, (.., deadline))| *deadline <= now)
            .map(|(token, _)| token.clone())
            .collect();
        late.iter().filter_map(|token| self.processes.remove(token)).map(|(p, ..)| p).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token(text.to_owned())
    }

    const BOTH: Streams = Streams { stdin: true, stdout: true, stderr: false };

    #[test]
    fn any_order_is_fine() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new();
        assert!(arrivals.stream(token("a"), StreamName::Stdout, 1, now).unwrap().is_none());
        assert!(arrivals.process(token("a"), BOTH, "process", now).unwrap().is_none());
        assert!(arrivals.stream(token("b"), StreamName::Stdin, 9, now).unwrap().is_none());
        let complete = arrivals.stream(token("a"), StreamName::Stdin, 0, now).unwrap().unwrap();
        assert_eq!((complete.process, complete.streams), ("process", [Some(0), Some(1), None]));
        assert_eq!(arrivals.len(), 1);
        let none = Streams::default();
        let complete = arrivals.process(token("c"), none, "other", now).unwrap().unwrap();
        assert_eq!((complete.process, complete.streams), ("other", [None, None, None]));
    }

    #[test]
    fn a_stream_that_was_not_announced_is_closed() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new();
        arrivals.stream(token("a"), StreamName::Stderr, 2, now).unwrap();
        let complete = arrivals.process(token("a"), Streams::default(), (), now).unwrap().unwrap();
        assert_eq!(complete.streams, [None, None, None]);
        assert_eq!(arrivals.len(), 0);
    }

    #[test]
    fn nobody_takes_the_place_of_another() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new();
        arrivals.process(token("a"), BOTH, "first", now).unwrap();
        let Err(Twice(refused)) = arrivals.process(token("a"), BOTH, "second", now) else {
            panic!("it took the first one's place")
        };
        assert_eq!(refused, "second");
        arrivals.stream(token("a"), StreamName::Stdin, 0, now).unwrap();
        assert!(arrivals.stream(token("a"), StreamName::Stdin, 1, now).is_err());
        let complete = arrivals.stream(token("a"), StreamName::Stdout, 2, now).unwrap().unwrap();
        assert_eq!((complete.process, complete.streams[0]), ("first", Some(0)));
    }

    #[test]
    fn who_waits_too_long_is_sent_away() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new();
        assert_eq!(arrivals.next_deadline(), None);
        arrivals.stream(token("a"), StreamName::Stdin, 0, now).unwrap();
        arrivals.process(token("b"), BOTH, "b", now + Duration::from_secs(1)).unwrap();
        assert_eq!(arrivals.next_deadline(), Some(now + DEADLINE));
        assert_eq!(arrivals.expire(now + DEADLINE), [""; 0]);
        assert_eq!(arrivals.len(), 1);
        assert_eq!(arrivals.expire(now + DEADLINE + Duration::from_secs(1)), ["b"]);
        assert_eq!(arrivals.len(), 0);
    }
}
