//! What happened on the network, in numbers that only grow, and two that say how it stands.

/// Plain numbers for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames taken from the receive ring, whatever became of them.
    pub frames_in: u64,
    /// Frames put into the transmit ring.
    pub frames_out: u64,
    /// Dropped: another machine's, or for everybody and not ARP.
    pub not_ours: u64,
    /// Dropped: lengths, versions or flags that contradict each other, or a wrong header sum.
    pub malformed: u64,
    /// Dropped: a piece of a larger packet.
    pub fragments: u64,
    /// Dropped: IP options, which nobody needs and source routing abuses.
    pub options: u64,
    /// Dropped: a sender's address that is no other host's.
    pub martians: u64,
    /// Dropped: a protocol that we do not speak.
    pub protocols: u64,
    /// Dropped: a wrong TCP checksum.
    pub checksums: u64,
    /// TCP frames of no connection, answered with RST, and echo requests.
    pub strays: u64,
    /// ARP frames, those that we could use and others.
    pub arp: u64,
    /// Times smoltcp looked at a connection, for a frame or for a timer.
    pub polls: u64,
    /// Connections that came in and were established.
    pub accepted: u64,
    /// Connections that we opened and that were established.
    pub dialled: u64,
    /// Connections that we tried to open in vain.
    pub failed_dials: u64,
    /// SYNs refused: as many connections as may be.
    pub refused_connections: u64,
    /// SYNs refused: as many half-open connections as may be.
    pub refused_half_open: u64,
    /// SYNs refused: no memory.
    pub refused_memory: u64,
    /// Half-open connections that never were established.
    pub vanished_half_open: u64,
    /// Established connections that the peer reset.
    pub resets: u64,
    /// Established connections that fell silent.
    pub timeouts: u64,
    /// Established connections that we reset.
    pub aborts: u64,
    /// Now: connections that came in or that we opened, in whatever state.
    pub connections: u64,
    /// Now: half-open connections among them.
    pub half_open: u64,
}
