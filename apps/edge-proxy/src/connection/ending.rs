//! The end of a connection: as politely as its reason allows, and never later than it may be.

use core::time::Duration;

use libos::clock::Instant;
use libos::stream::{Dial, Read, Stream};
use libos::tls::Session;

use super::visit::Visit;
use super::{Connection, STEP_BYTES};
use crate::{Outcome, Reason, Workspace};

impl<S: Session, C: Stream, D: Dial> Connection<S, C, D> {
    /// Begins to end the connection, as politely as the reason allows.
    pub(super) fn begin_ending(&mut self, reason: Reason, now: Instant) {
        let span = match reason {
            Reason::ClientReset | Reason::HandshakeDeadline => Duration::ZERO,
            _ => self.route.limits.closing,
        };
        self.ending = Some((reason, now + span));
        self.visit = Visit::Over;
        self.down.has_fin = true;
        match reason {
            Reason::Completed => {}
            // The alert is queued already, or there is nobody to talk to.
            Reason::Tls(_) | Reason::LeftInHandshake => self.abort_backend(),
            Reason::ClientReset | Reason::HandshakeDeadline => self.abort(),
            Reason::AnswerDeadline
            | Reason::BackendDeadline
            | Reason::BackendRefused
            | Reason::BackendReset
            | Reason::IdleDeadline
            | Reason::LifetimeDeadline
            | Reason::NoEvidence(_)
            | Reason::NotDialled(_)
            | Reason::NoRequest
            | Reason::RequestDeadline
            | Reason::Violation(_) => {
                self.abort_backend();
                self.say_goodbye();
            }
        }
    }

    /// Sends what is left and throws away what still comes; says whether more may wait.
    ///
    /// Unread bytes would turn our FIN into a reset, and the reset would overtake an alert.
    pub(super) fn wind_up(&mut self, workspace: &mut Workspace) -> bool {
        self.flush();
        let mut budget = STEP_BYTES;
        while budget > 0 {
            match self.client.read(&mut workspace.plaintext) {
                Read::Data(count) => budget = budget.saturating_sub(count),
                Read::Empty | Read::Finished | Read::Broken => return false,
            }
        }
        true
    }

    pub(super) fn is_over(&mut self) -> bool {
        self.client.is_over() && self.backend.stream().is_none_or(|stream| stream.is_over())
    }

    /// Resets what is not over.
    pub(super) fn abort(&mut self) {
        if !self.client.is_over() {
            self.client.abort();
        }
        self.abort_backend();
    }

    pub(super) fn abort_backend(&mut self) {
        if let Some(stream) = self.backend.stream()
            && !stream.is_over()
        {
            stream.abort();
        }
    }

    pub(super) fn outcome(&self, reason: Reason, now: Instant) -> Outcome {
        Outcome {
            reason,
            to_backend: self.up.bytes,
            to_client: self.down.bytes,
            total: now.since(self.started),
            handshake: self.handshake,
            connect: self.connect,
            parameters: self.handshake.and_then(|_| self.session.parameters()),
            attested: self.attested,
            opening: self.opening,
            is_truncated: self.up.is_truncated,
        }
    }
}
