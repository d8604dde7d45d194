//! Why a TLS connection failed, and who is to blame.

use core::fmt;

use rustls::{Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// Why a TLS connection failed. The variants say who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// The peer gave up and said so.
    Alert(Alert),
    /// The two sides have nothing in common.
    Incompatible(Incompatible),
    /// It is our fault.
    Internal(Internal),
    /// The peer broke the protocol.
    Misbehaved(Misbehaved),
    /// The peer speaks another protocol.
    NotTls(NotTls),
}

/// A TLS alert's description (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(pub u8);

/// What the two sides do not have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incompatible {
    /// An application protocol (ALPN).
    ApplicationProtocol,
    /// A cipher suite.
    CipherSuite,
    /// A group for the key exchange.
    Group,
    /// Something else.
    Other,
    /// A signature scheme that fits our key.
    SignatureScheme,
    /// The protocol version.
    Version,
}

/// What went wrong on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Internal {
    /// One record led through more states than any record can.
    Endless,
    /// The keys have protected as many records as they may.
    Exhausted,
    /// The session was used in a way it is not made for.
    Misuse,
    /// No random bytes.
    NoEntropy,
    /// The TLS library failed.
    Other,
}

/// How the peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehaved {
    /// A record or a Finished message that the keys do not fit.
    DecryptError,
    /// Bytes that are no TLS message.
    Malformed,
    /// A handshake message of more bytes than we collect.
    MessageTooLong,
    /// Something else.
    Other,
    /// A record longer than records may be.
    RecordTooLong,
    /// Too many records that carry nothing, or requests for new keys.
    TooMuchOfNothing,
    /// A message that has no place here.
    UnexpectedMessage,
}

/// What the peer speaks instead of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTls {
    /// An HTTP request.
    Http,
    /// Something that begins with that byte.
    Other(u8),
}

impl TlsError {
    /// The alert that RFC 8446 section 6.2 has for this, for when the library queues none.
    pub(super) fn alert(self) -> Option<Alert> {
        match self {
            Self::Alert(_) => None,
            Self::Incompatible(_) => Some(Alert::HANDSHAKE_FAILURE),
            Self::Internal(_) => Some(Alert::INTERNAL_ERROR),
            Self::Misbehaved(Misbehaved::DecryptError) => Some(Alert::BAD_RECORD_MAC),
            Self::Misbehaved(Misbehaved::RecordTooLong) => Some(Alert::RECORD_OVERFLOW),
            Self::Misbehaved(Misbehaved::Malformed | Misbehaved::MessageTooLong) => {
                Some(Alert::DECODE_ERROR)
            }
            Self::Misbehaved(_) => Some(Alert::UNEXPECTED_MESSAGE),
            Self::NotTls(_) => Some(Alert::DECODE_ERROR),
        }
    }
}

impl Alert {
    const UNEXPECTED_MESSAGE: Self = Self(10);
    const BAD_RECORD_MAC: Self = Self(20);
    const RECORD_OVERFLOW: Self = Self(22);
    const HANDSHAKE_FAILURE: Self = Self(40);
    const DECODE_ERROR: Self = Self(50);
    const INTERNAL_ERROR: Self = Self(80);

    /// The record that says this before keys exist: fatal, in plaintext.
    pub(super) fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self.0]
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::Alert(Alert(alert.into())),
            Error::PeerIncompatible(reason) => Self::Incompatible(reason.into()),
            Error::NoApplicationProtocol => Self::Incompatible(Incompatible::ApplicationProtocol),
            Error::PeerMisbehaved(reason) => Self::Misbehaved(reason.into()),
            Error::InvalidMessage(reason) => Self::Misbehaved(reason.into()),
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                Self::Misbehaved(Misbehaved::UnexpectedMessage)
            }
            Error::DecryptError => Self::Misbehaved(Misbehaved::DecryptError),
            Error::PeerSentOversizedRecord => Self::Misbehaved(Misbehaved::RecordTooLong),
            Error::FailedToGetRandomBytes => Self::Internal(Internal::NoEntropy),
            _ => Self::Internal(Internal::Other),
        }
    }
}

impl From<PeerIncompatible> for Incompatible {
    fn from(reason: PeerIncompatible) -> Self {
        match reason {
            PeerIncompatible::NoCipherSuitesInCommon => Self::CipherSuite,
            PeerIncompatible::KeyShareExtensionRequired
            | PeerIncompatible::NamedGroupsExtensionRequired
            | PeerIncompatible::NoKxGroupsInCommon => Self::Group,
            PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired => Self::SignatureScheme,
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled => Self::Version,
            _ => Self::Other,
        }
    }
}

impl From<PeerMisbehaved> for Misbehaved {
    fn from(reason: PeerMisbehaved) -> Self {
        match reason {
            PeerMisbehaved::IllegalMiddleboxChangeCipherSpec
            | PeerMisbehaved::IllegalTlsInnerPlaintext
            | PeerMisbehaved::KeyEpochWithPendingFragment
            | PeerMisbehaved::MessageInterleavedWithHandshakeMessage => Self::UnexpectedMessage,
            PeerMisbehaved::TooManyEmptyFragments
            | PeerMisbehaved::TooManyKeyUpdateRequests
            | PeerMisbehaved::TooManyWarningAlertsReceived => Self::TooMuchOfNothing,
            _ => Self::Other,
        }
    }
}

impl From<InvalidMessage> for Misbehaved {
    fn from(reason: InvalidMessage) -> Self {
        match reason {
            InvalidMessage::HandshakePayloadTooLarge => Self::MessageTooLong,
            InvalidMessage::MessageTooLarge => Self::RecordTooLong,
            InvalidMessage::UnexpectedMessage(_) => Self::UnexpectedMessage,
            _ => Self::Malformed,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alert(alert) => write!(f, "alert received: {alert}"),
            Self::Incompatible(reason) => reason.fmt(f),
            Self::Internal(reason) => write!(f, "TLS failed: {reason}"),
            Self::Misbehaved(reason) => reason.fmt(f),
            Self::NotTls(reason) => write!(f, "not TLS: {reason}"),
        }
    }
}

impl core::error::Error for TlsError {}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            109 => "missing_extension",
            110 => "unsupported_extension",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            other => return write!(f, "{other}"),
        };
        f.write_str(name)
    }
}

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApplicationProtocol => "client offers no application protocol of ours",
            Self::CipherSuite => "client offers no cipher suite of ours",
            Self::Group => "client offers no key exchange group of ours",
            Self::Other => "client requires something we do not have",
            Self::SignatureScheme => "client offers no signature scheme for our key",
            Self::Version => "client offers no TLS 1.3",
        })
    }
}

impl fmt::Display for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Endless => "no end of states",
            Self::Exhausted => "keys are used up",
            Self::Misuse => "session used out of order",
            Self::NoEntropy => "no entropy",
            Self::Other => "library error",
        })
    }
}

impl fmt::Display for Misbehaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DecryptError => "bad record MAC",
            Self::Malformed => "malformed message",
            Self::MessageTooLong => "handshake message too long",
            Self::Other => "protocol violation",
            Self::RecordTooLong => "record too long",
            Self::TooMuchOfNothing => "too many empty records or key updates",
            Self::UnexpectedMessage => "unexpected message",
        })
    }
}

impl fmt::Display for NotTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("HTTP request on the TLS port"),
            Self::Other(first) => write!(f, "first byte is {first:#04x}"),
        }
    }
}
