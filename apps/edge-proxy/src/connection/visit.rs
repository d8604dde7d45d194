//! What comes between the handshake and the traffic where the client asks for evidence.

use libos::clock::Instant;
use libos::stream::{Dial, Stream};
use libos::tls::{EXPORTER_BYTES, Session};

use super::{Connection, STEP_BYTES, send_record, wanted};
use crate::attest::{Answered, NoEvidence, Request, Ticket, Violation};
use crate::outcome::Attested;
use crate::{Reason, Workspace};

/// How far the visit at the desk is.
pub(super) enum Visit {
    /// The client's request is coming.
    Asking { request: Request, exporter: [u8; EXPORTER_BYTES] },
    /// The nonce is at the desk.
    Waiting(Ticket),
    /// The answer is going out.
    Answering { answer: Answer, since: Instant },
    /// The client broke the protocol.
    Broken(Violation),
    /// There is none, or it was: plaintext is for the backend.
    Over,
}

/// An answer on its way: the length of the evidence, and the evidence.
pub(super) struct Answer {
    length: [u8; 4],
    result: Result<Answered, NoEvidence>,
    sent: usize,
}

impl Visit {
    /// Takes the client's plaintext, all of it.
    pub(super) fn take(&mut self, plaintext: &[u8]) {
        match self {
            Self::Asking { request, .. } => request.take(plaintext),
            Self::Waiting(_) | Self::Answering { .. } if !plaintext.is_empty() => {
                *self = Self::Broken(Violation::Early);
            }
            Self::Waiting(_) | Self::Answering { .. } | Self::Broken(_) | Self::Over => {}
        }
    }

    /// Whether the client has asked and not been answered.
    pub(super) fn awaits_answer(&self) -> bool {
        matches!(self, Self::Waiting(_) | Self::Answering { .. })
    }

    /// Whether it is our turn: the client may be silent for as long as we are.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    fn answer(result: Result<Answered, NoEvidence>, since: Instant) -> Self {
        let bytes = result.as_ref().map_or(0, |answered| answered.evidence.bytes().len());
        // Evidence is never longer than the desk lets through.
        let length = u32::try_from(bytes).unwrap_or(0).to_be_bytes();
        Self::Answering { answer: Answer { length, result, sent: 0 }, since }
    }
}

impl Answer {
    /// What is to be sent next.
    fn rest(&self) -> &[u8] {
        let evidence = self.result.as_ref().map_or(&[][..], |answered| answered.evidence.bytes());
        match self.length.get(self.sent..) {
            Some(length) if !length.is_empty() => length,
            _ => evidence.get(self.sent - self.length.len()..).unwrap_or_default(),
        }
    }
}

impl<S: Session, C: Stream, D: Dial> Connection<S, C, D> {
    /// Moves the visit on as far as it can be without sending.
    pub(super) fn attend(&mut self, now: Instant) -> Result<(), Reason> {
        self.visit = match &self.visit {
            Visit::Broken(violation) => return Err(Reason::Violation(*violation)),
            Visit::Asking { request, exporter } => {
                match request.nonce().map_err(Reason::Violation)? {
                    Some(nonce) => match self.visitor.ask(&nonce, exporter, now) {
                        Ok(ticket) => Visit::Waiting(ticket),
                        Err(refusal) => Visit::answer(Err(refusal), now),
                    },
                    None => return Ok(()),
                }
            }
            Visit::Answering { .. } | Visit::Over | Visit::Waiting(_) => return self.wait(now),
        };
        self.wait(now)
    }

    fn wait(&mut self, now: Instant) -> Result<(), Reason> {
        if let Visit::Waiting(ticket) = &self.visit
            && let Some(result) = ticket.poll(now)
        {
            self.active = now;
            self.visit = Visit::answer(result, now);
        }
        Ok(())
    }

    /// Sends as much of an answer as there is room for; says whether there is more to do at once.
    pub(super) fn send_answer(
        &mut self,
        now: Instant,
        workspace: &mut Workspace,
    ) -> Result<bool, Reason> {
        let mut budget = STEP_BYTES;
        loop {
            self.flush();
            let Visit::Answering { answer, .. } = &mut self.visit else { return Ok(false) };
            if answer.rest().is_empty() {
                return self.end_visit();
            }
            let Some(wanted) = wanted(&self.session, &self.client) else { return Ok(false) };
            if budget == 0 {
                return Ok(true);
            }
            let rest = answer.rest();
            let piece = rest.get(..wanted).unwrap_or(rest);
            self.active = now;
            let sealed = &mut workspace.sealed;
            let length = send_record(&mut self.session, &mut self.client, piece, sealed)?;
            answer.sent += piece.len();
            budget = budget.saturating_sub(length);
        }
    }

    fn end_visit(&mut self) -> Result<bool, Reason> {
        let Visit::Answering { answer, .. } = core::mem::replace(&mut self.visit, Visit::Over)
        else {
            return Ok(false);
        };
        let Answered { together, waited, .. } = answer.result.map_err(Reason::NoEvidence)?;
        self.attested = Some(Attested { together, waited });
        Ok(true)
    }
}
