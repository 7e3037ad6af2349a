//! The engine's log of the height being decided, in two copies: all that a validator remembers of its votes.
//!
//! Every entry is in both files, and synced in both, before what it stands for leaves the node. So a file whose tail is
//! cut, zeroed or damaged costs no vote: when the engine starts, each copy gets what only the other one still has.

mod copies;

use std::io;
use std::path::PathBuf;
use std::thread;

use arc_malachitebft_core_consensus::Input;
use arc_malachitebft_engine::wal::{Msg, WalRef, decode_entry, encode_entry};
use arc_malachitebft_wal::Log;
use async_trait::async_trait;
use ractor::{Actor, ActorProcessingErr, SpawnErr};

pub(crate) use copies::{Copies, mend};

use crate::codec::EngineCodec;
use crate::context::Trellis;

/// The handle through which the engine writes.
pub(crate) type LogRef = WalRef<Trellis>;

/// The entries of a height that the engine replays.
type Replay = Vec<io::Result<Input<Trellis>>>;

/// The actor that holds both files.
pub(crate) struct LogActor;

/// Its state.
pub(crate) struct State {
    height: u64,
    /// None while a write runs, and after one that did not come back.
    logs: Option<[Log; 2]>,
}

impl LogActor {
    /// Opens both copies, which were mended before.
    pub(crate) async fn spawn(copies: Copies) -> Result<LogRef, SpawnErr> {
        let (actor, _) = Actor::spawn(None, Self, copies.0).await?;
        Ok(actor)
    }
}

impl State {
    /// Does something with both files where blocking is allowed.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut [Log; 2]) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let lost = || io::Error::other("a write to the log of votes did not come back");
        let mut logs = self.logs.take().ok_or_else(lost)?;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work(&mut logs);
            (logs, done)
        });
        let (logs, done) = worked.await.map_err(io::Error::other)?;
        self.logs = Some(logs);
        done
    }
}

/// The same in both copies at once, since each waits for the disk.
fn in_both(logs: &mut [Log; 2], work: impl Fn(&mut Log) -> io::Result<()> + Sync) -> io::Result<()> {
    let [first, second] = logs;
    thread::scope(|scope| {
        let other = thread::Builder::new().spawn_scoped(scope, || work(second))?;
        let done = work(first);
        let other = other.join().unwrap_or_else(|_| Err(io::Error::other("the second copy of the log")));
        done.and(other)
    })
}

/// The entries of a height if the log is at it; otherwise the log begins that height.
fn start_height(logs: &mut [Log; 2], height: u64) -> io::Result<Replay> {
    if logs.iter().any(|log| log.sequence() != height) {
        in_both(logs, |log| log.reset(height))?;
        return Ok(Vec::new());
    }
    let [first, _] = logs;
    if first.is_empty() {
        return Ok(Vec::new());
    }
    Ok(first.iter()?.map(|entry| entry.and_then(|bytes| decode_entry(&EngineCodec, bytes.as_slice()))).collect())
}

fn append(logs: &mut [Log; 2], entry: Input<Trellis>) -> io::Result<()> {
    let mut bytes = Vec::new();
    encode_entry(entry, &EngineCodec, &mut bytes)?;
    logs.iter_mut().try_for_each(|log| log.append(&bytes))
}

#[async_trait]
impl Actor for LogActor {
    type Msg = Msg<Trellis>;
    type State = State;
    type Arguments = [PathBuf; 2];

    async fn pre_start(&self, _myself: LogRef, paths: [PathBuf; 2]) -> Result<State, ActorProcessingErr> {
        let logs = tokio::task::spawn_blocking(move || {
            let [first, second] = paths;
            io::Result::Ok([Log::open(first)?, Log::open(second)?])
        });
        Ok(State { height: 0, logs: Some(logs.await??) })
    }

    /// Whoever asked is gone only when the engine stops, so that an answer nobody takes is none too few.
    async fn handle(
        &self,
        _myself: LogRef,
        message: Msg<Trellis>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::StartedHeight(height, reply) if state.height == height.0 => drop(reply.send(Ok(Vec::new()))),
            Msg::StartedHeight(height, reply) => {
                state.height = height.0;
                let entries = state.run(move |logs| start_height(logs, height.0)).await;
                let _ = reply.send(entries.map_err(Into::into));
            }
            Msg::Reset(height, reply) => {
                state.height = height.0;
                let done = state.run(move |logs| in_both(logs, |log| log.reset(height.0))).await;
                let _ = reply.send(done.map_err(Into::into));
            }
            Msg::Append(height, _, reply) if state.height != height.0 => {
                tracing::warn!(height = height.0, log_height = state.height, "entry of another height not logged");
                let _ = reply.send(Ok(()));
            }
            Msg::Append(_, entry, reply) => {
                let done = state.run(move |logs| append(logs, entry)).await;
                if let Err(error) = &done {
                    tracing::error!(%error, "the log of votes takes no entry");
                }
                let _ = reply.send(done.map_err(Into::into));
            }
            Msg::Flush(reply) => {
                let done = state.run(|logs| in_both(logs, Log::flush)).await;
                if let Err(error) = &done {
                    tracing::error!(%error, "the log of votes cannot be synced");
                }
                let _ = reply.send(done.map_err(Into::into));
            }
            Msg::Dump => {}
        }
        Ok(())
    }
}
