//! The three messages, as either side.

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::check::{Accepted, Refusal};
use super::{Answer, HANDSHAKE_MESSAGE_BYTES_MAX, Hello, Verdict, WireRefusal};
use crate::error::RefusedBy;
use crate::frame::{FrameError, read_frame, read_message, write_frame, write_message};
use crate::reason::RefusalReason;

/// Why a handshake ended without two acceptances.
#[derive(Debug, Error)]
pub(crate) enum HandshakeFailure {
    #[error("refused by {by}: {}", refusal.reason)]
    Refused { by: RefusedBy, refusal: Refusal },
    #[error("handshake stream: {0}")]
    Stream(#[from] FrameError),
}

impl HandshakeFailure {
    fn by_us(refusal: Refusal) -> Self {
        Self::Refused { by: RefusedBy::Us, refusal }
    }

    fn by_them(refusal: WireRefusal) -> Self {
        Self::Refused { by: RefusedBy::Them, refusal: refusal.into_refusal() }
    }
}

/// The dialer's side. `check` is called with the listener's hello; when it accepts, it lets the peer's streams in.
pub(crate) async fn as_dialer<S, C>(stream: &mut S, hello: Hello, check: C) -> Result<Accepted, HandshakeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: FnOnce(&Hello) -> Result<Accepted, Refusal>,
{
    write_message(stream, &hello).await?;
    let answer: Answer = read_message(stream, HANDSHAKE_MESSAGE_BYTES_MAX).await?;
    let theirs = match answer {
        Answer { refusal: Some(refusal), .. } => return Err(HandshakeFailure::by_them(refusal)),
        Answer { hello: Some(hello), .. } => hello,
        Answer { hello: None, refusal: None } => {
            return Err(HandshakeFailure::by_us(Refusal::new(RefusalReason::Malformed, "empty answer")));
        }
    };
    let checked = check(&theirs);
    let refusal = checked.as_ref().err().map(WireRefusal::new);
    write_message(stream, &Verdict { refusal }).await?;
    if checked.is_err() {
        // The end of the connection must not overtake the refusal: the listener ends the stream once it has read it.
        stream.shutdown().await.map_err(FrameError::from)?;
        let _ = stream.read_u8().await;
    }
    let accepted = checked.map_err(HandshakeFailure::by_us)?;
    read_frame(stream, 0).await?;
    Ok(accepted)
}

/// The listener's last word, once it knows the dialer as connected.
pub(crate) async fn confirm<S: AsyncWrite + Unpin>(stream: &mut S) -> Result<(), HandshakeFailure> {
    Ok(write_frame(stream, &[]).await?)
}

/// The listener's side up to the dialer's verdict; [`confirm`] follows. `check` is called with the dialer's hello; when it accepts, it lets the peer's streams in.
pub(crate) async fn as_listener<S, C>(stream: &mut S, hello: Hello, check: C) -> Result<Accepted, HandshakeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: FnOnce(&Hello) -> Result<Accepted, Refusal>,
{
    let checked = match read_message::<Hello, _>(stream, HANDSHAKE_MESSAGE_BYTES_MAX).await {
        Ok(theirs) => check(&theirs),
        Err(error @ (FrameError::Decode(_) | FrameError::TooLarge { .. })) => {
            Err(Refusal::new(RefusalReason::Malformed, error.to_string()))
        }
        Err(error) => return Err(error.into()),
    };
    let accepted = match checked {
        Ok(accepted) => accepted,
        Err(refusal) => {
            let answer = Answer { hello: None, refusal: Some(WireRefusal::new(&refusal)) };
            write_message(stream, &answer).await?;
            // The peer closes; waiting for it keeps the refusal from being overtaken by the end of the connection.
            let _ = read_message::<Verdict, _>(stream, HANDSHAKE_MESSAGE_BYTES_MAX).await;
            return Err(HandshakeFailure::by_us(refusal));
        }
    };
    write_message(stream, &Answer { hello: Some(hello), refusal: None }).await?;
    let verdict: Verdict = read_message(stream, HANDSHAKE_MESSAGE_BYTES_MAX).await?;
    match verdict.refusal {
        Some(refusal) => Err(HandshakeFailure::by_them(refusal)),
        None => Ok(accepted),
    }
}
