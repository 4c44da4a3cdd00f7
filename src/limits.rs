//! Every bound of the program, with the reason for its value. What an operator may change is in the
//! configuration, whose defaults and ranges are here as well.

mod ranges;

use std::time::Duration;

pub use ranges::*;

// ---- wire ----

/// Largest message in a frame, in bytes. The largest that we build is a `ServerHello` with
/// [`MAX_SERVICES`] names of [`MAX_NAME_LEN`] bytes: 256 × (63 + 2) = 16.6 KB.
pub const MAX_FRAME_LEN: usize = 20 * 1024;
/// Services of one gateway. More would not fit a `ServerHello` in one frame.
pub const MAX_SERVICES: usize = 256;
/// Bytes in the name of a service, listener, server or gateway: the length of a DNS label.
pub const MAX_NAME_LEN: usize = 63;
/// Bytes in the identity of a device: the length of a DNS name with its kind before it.
pub const MAX_IDENTITY_LEN: usize = 260;
/// Random bytes in a ticket: 128 bits can't be guessed within the life of an invitation.
pub const TICKET_LEN: usize = 16;

/// Bytes of one piece of a list of revoked certificates: with its fields and the frame within [`MAX_FRAME_LEN`].
pub const MAX_CRL_PIECE_LEN: usize = 16 * 1024;
/// Lists that one server may begin to bring within [`CRL_WINDOW`]: all that it may have, and each once more. A
/// gateway's thread of reloads needs up to 20 ms for each, whatever is in it.
pub const CRLS_PER_WINDOW: u32 = 32;
/// See [`CRLS_PER_WINDOW`].
pub const CRL_WINDOW: Duration = Duration::from_secs(60);

// ---- TLS ----

/// Bytes of a record or a handshake message that wait for their rest, in one connection: a client's
/// chain of certificates of two full records.
pub const MAX_PENDING_LEN: usize = 2 * MAX_RECORD_LEN;
/// Largest ClientHello, in bytes of records. Browsers send about 2 KB with a post-quantum key share.
pub const MAX_CLIENT_HELLO_LEN: usize = 16 * 1024;
/// Bytes before the content of a TLS record (RFC 8446 §5.1).
pub const RECORD_HEADER_LEN: usize = 5;
/// Bytes of the tag at the end of a protected record: the same for every suite of ours.
pub const RECORD_TAG_LEN: usize = 16;
/// Bytes behind the content of a protected record without padding: its type and the tag.
pub const RECORD_TRAILER_LEN: usize = 1 + RECORD_TAG_LEN;
/// Bytes of payload in one TLS record (RFC 8446 §5.1).
pub const MAX_RECORD_CONTENT_LEN: usize = 16 * 1024;
/// Largest TLS record with its header (RFC 8446 §5.2): 5 + 2^14 + 256.
pub const MAX_RECORD_LEN: usize = RECORD_HEADER_LEN + MAX_RECORD_CONTENT_LEN + 256;
/// `KeyUpdate`s of a peer with no payload between them. Each costs two derivations of keys; a peer that
/// rekeys by the clock, on a session that is quiet, stays far below in the life of a session.
pub const MAX_KEY_UPDATES_IN_A_ROW: u32 = 32;
/// Records before the limit of a key (2^24 for AES-GCM, RFC 8446 §5.5) at which it is replaced: more
/// than one receive can bring, so that no key is ever used to its limit.
pub const KEY_UPDATE_MARGIN: u64 = 1 << 16;
/// Bytes of a handshake message after the handshake. The largest is a `NewSessionTicket`, which holds
/// the client's chain of certificates where its server keeps no state.
pub const MAX_POST_HANDSHAKE_LEN: usize = 40 * 1024;
/// Tickets that the gateway gives out in one handshake: each that resumes leaves one for the next, and
/// those of a client that connect at once bring one each. Keys of tickets change every 6 hours, and the
/// one before is honoured as long: a ticket lives for 12 hours at most.
pub const TICKETS_PER_HANDSHAKE: usize = 1;
/// Largest ticket, in bytes. It holds the client's chain, and comes back in a ClientHello, which must
/// stay below [`MAX_CLIENT_HELLO_LEN`]: a client with a longer chain gets none, and never resumes.
pub const MAX_TICKET_LEN: usize = 8 * 1024;
/// Tickets that a server or an agent keeps of one gateway, at some 2 KB each: as many connections as
/// begin at once, at 1,000 a second and a round trip of 250 ms.
pub const MAX_KEPT_TICKETS: usize = 256;
/// Chains that a gateway remembers as good, for the devices of each listener and for the servers: a
/// large fleet at one gateway, at some 64 bytes each.
pub const MAX_KNOWN_CHAINS: usize = 16 * 1024;
/// TLS sessions that a server keeps of one backend: rustls keeps eight tickets for a name.
pub const MAX_BACKEND_SESSIONS: usize = 8;

/// Bytes of one list of revoked certificates: 100,000 of them, at some 40 bytes each.
pub const MAX_CRL_LEN: usize = 4 * 1024 * 1024;
/// Bytes of a file of such lists: the longest one in PEM, or some short ones.
pub const MAX_CRL_FILE_LEN: u64 = 8 * 1024 * 1024;
/// Lists in one file, and files of lists in one configuration's key: one for each CA of a role.
pub const MAX_CRLS: usize = 16;
/// The part of a list's life that is left when its operator is warned that the next one is due: of one
/// that is made each week a day and a half, of one that is made each day five hours.
pub const CRL_WARNING_DIVISOR: i64 = 5;
/// Between two warnings of the same lists that are stale, missing or soon stale.
pub const CRL_WARNING_INTERVAL: Duration = Duration::from_secs(3_600);

/// Time before the end of a certificate from which on its operator is warned, once a day: a request, an
/// approval and a visit fit. One that lives for less than three times as long is renewed by a program, and
/// has a third of its life.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 86_400);
/// Names in one certificate. A host has a few; each costs memory and time at every connection.
pub const MAX_IDENTITY_NAMES: usize = 64;
/// Bytes of a file of certificates or keys. The bundle of all public CAs has about 250 KB.
pub const MAX_PEM_FILE_LEN: u64 = 1024 * 1024;

// ---- workers ----

/// Bytes of one receive: half the CPU of 16 KiB in bulk, and 128 KiB cost up to 15 % more. A worker has
/// a handful of buffers of this size, whatever the number of sessions.
pub const RECEIVE_LEN: usize = 256 * 1024;
/// Bytes of the first receive of a session in each direction, and of those for a peer that keeps on
/// reading slowly: what it does not take waits here. The receive at which a peer first stops may be
/// larger, since the kernel took all before it. One record.
pub const MIN_RECEIVE_LEN: usize = MAX_RECORD_CONTENT_LEN;
/// From how many bytes a receive on between two legs without TLS the kernel moves them itself (splice(2)): bulk then costs 0.6 to 0.7 of
/// what copying does (`bench/results`, `2026-11-26-epyc-2-cores-passthrough.json`), and below it two calls more cost what the copy costs.
pub const SPLICE_LEN: usize = 64 * 1024;
/// Bytes that a socket takes before they can be sent (`TCP_NOTSENT_LOWAT`): what is on its way does not
/// count, so that a long fat link stays full while a worker comes back within a millisecond, and what
/// a peer does not read waits elsewhere. The kernel goes beyond it by one packet of 64 KiB.
pub const UNSENT_LEN: u32 = 128 * 1024;
/// Receive buffer in bytes, as `SO_RCVBUF` takes them (the kernel doubles them), of a session that moves
/// much and has no place among those whose buffers grow: 1 Gbit/s where the round trip is 1 ms.
pub const FIXED_RECEIVE_LEN: usize = 128 * 1024;
/// Sessions of a worker whose receive buffers the kernel may let grow, to the largest `tcp_rmem` (6 or
/// 32 MB): bulk costs 10 to 20 % less CPU with that, and fills a long fat link. More than that at once
/// share a worker's core and get less than 30 MB/s each.
pub const GROWING_SESSIONS: usize = 64;
/// Bytes within [`PACE_TIME`] that make a session one that moves much: 640 KB/s. It has to be less than
/// a fixed buffer lets through from any place on earth.
pub const SWIFT_LEN: u64 = 64 * 1024;
/// Time over which the pace of a session is measured.
pub const PACE_TIME: Duration = Duration::from_millis(100);
/// Bytes that a session which is held back buys at once, beyond one record: as much as one turn, so that
/// a fast limit costs no small receives.
pub const MAX_PURCHASE_LEN: u64 = TURN_LEN;
/// How often such a session goes on in a second, where that is more than a record each time: each costs a
/// timer and a turn, and less often would be felt as a pause.
pub const PURCHASES_PER_SECOND: u64 = 64;
/// Cells in each row of the buckets of bytes of devices, and of addresses: 8 bytes each, 256 KB for either.
/// With 300 at their limit, one in 3,000 others shares both of its cells with them, and is held back too
/// early.
pub const BANDWIDTH_CELLS: usize = 1 << 14;
/// Time without a byte after which a session has to let another's receive buffers grow.
pub const REST_TIME: Duration = Duration::from_secs(1);
/// Bytes that wait for a peer above which nothing more is received from it: it makes us answer
/// (`KeyUpdate`) and does not read the answers. A signal connection ends there.
pub const MAX_ANSWERS_LEN: usize = 256 * 1024;
/// Runs of payload in one send. Unpadded records are a single run; plain payload is one for each record.
pub const RUNS_PER_SEND: usize = 32;
/// Sessions of a worker whose expanded keys are kept, at 2 KB each: bulk and lively sessions are rarely
/// more at once, and for the others their keys are expanded again at the next record, in 0.2 µs each.
pub const HOT_SESSIONS: usize = 512;
/// Sessions that are looked at, at a turn, to find one that is not hot any more.
pub const HOT_SESSION_LOOKS: usize = 4;
/// Buffers without content that a worker keeps for the next session that needs one, so that bytes
/// move without an allocation. Each has up to [`RECEIVE_LEN`] bytes.
pub const SHELF_LEN: usize = 8;
/// Sessions and connections that a worker looks at in one turn of its loop, after a change of what is trusted: at
/// 0.1 µs for a session and some 100 µs for an agent that waits, a turn stays below 10 ms.
pub const JUDGED_PER_TURN: usize = 64;
/// Payload that is taken from an agent that waits and has ended its direction, in bytes, to learn
/// whether it ended cleanly or left. A request and its end usually fit; for more, it is let in.
pub const READ_AHEAD_LEN: usize = 16 * 1024;
/// Bytes that one session moves before the next has its turn: one large receive. More made bulk no
/// cheaper, and every session that waits pays for it.
pub const TURN_LEN: u64 = 256 * 1024;
/// Steps each way of one session in its turn, however few bytes they move: enough to find that
/// nothing more is there.
pub const STEPS_PER_TURN: usize = 4;
/// Bytes in a turn above which a session is bulk, and lets those that say little go first.
pub const BULK_LEN: u64 = TURN_LEN / 4;
/// Turns of sessions that say little before one of bulk, and before the ring is asked for news: at
/// some 10 µs each, bulk and new messages wait for less than 1 ms.
pub const SESSIONS_PER_TURN: usize = 64;
/// Connections of one listener that are taken in, in one turn of a worker's loop: the rest wait in the
/// kernel's backlog.
pub const ACCEPTS_PER_TURN: usize = 16;
/// Connections that are accepted and closed at once beside those, which is far cheaper: a flood must
/// not fill the backlog, where those wait who are let in.
pub const REFUSALS_PER_TURN: usize = 128;
/// TLS handshake steps in one turn of a worker's loop, at about 0.3 ms of CPU each: a storm of
/// handshakes may add this much to the delay of those who are connected. Beside a full turn of sessions
/// (1 ms at most) new ones still get a third of the worker. In `hello-storm` of the bench, messages had
/// a median of 0.8 ms so, of 2.9 ms with 8 and 15 ms with 64, and no more handshakes came through; with
/// 1 there was no gain that could be told from noise.
pub const HANDSHAKES_PER_TURN: usize = 2;
/// Connections that became ready for something cheaper than a handshake (a ClientHello, a claim, an
/// answer), in one turn of a worker's loop, at some 30 µs each.
pub const CONNECTIONS_PER_TURN: usize = 16;
/// Mails that a worker reads in one turn of its loop.
pub const MAILS_PER_TURN: usize = 256;
/// Capacity of the mailbox of a thread. A sender whose mail does not fit keeps it and tries again in
/// its next turn; what it keeps is bounded by its connections.
pub const MAILBOX_CAPACITY: usize = 4096;
/// How long a thread waits while mail of its own waits for room in another thread's mailbox.
pub const KEPT_MAIL_RETRY: Duration = Duration::from_millis(1);
/// How long mail waits that nobody is waiting for, such as a record for the log: a person sees no
/// delay, and a busy worker wakes the control thread 100 times a second for it at most.
pub const QUIET_MAIL_DELAY: Duration = Duration::from_millis(10);
/// Backlog of a listener: connections that the kernel holds while a worker is busy.
pub const LISTEN_BACKLOG: i32 = 1024;
/// Submission entries of a worker's ring. The queue is flushed when full, so this bounds a batch only.
pub const RING_ENTRIES: u32 = 1024;
/// Events of epoll that one turn of a worker's loop takes: the rest wait in the kernel until the next.
pub const EPOLL_EVENTS: usize = 1024;
/// Longest wait in epoll: it takes a number of milliseconds that has 31 bits.
pub const EPOLL_WAIT_MAX: Duration = Duration::from_secs(3_600);
/// Time from a close_notify that the kernel has sealed to the first look whether TCP has taken all before it: a thread of the
/// kernel sends what was left over, usually at once.
pub const FIRST_PUSH_LOOK: Duration = Duration::from_millis(1);
/// The same at most; it doubles each time. For peers that do not read: one look costs three calls.
pub const MAX_PUSH_LOOK: Duration = Duration::from_secs(1);
/// Time for a goodbye (an alert, a refusal, the last bytes) to leave before the socket is closed.
pub const LINGER: Duration = Duration::from_secs(2);
/// Bytes that a peer may still send to a connection that lingers, before it is closed regardless.
pub const MAX_LINGER_LEN: usize = 256 * 1024;
/// Descriptors beside those of connections: rings, listeners, signal connections, telemetry, the log.
pub const DESCRIPTOR_RESERVE: usize = 256;
/// How long a process waits for a port that another one has: the kernel takes the rings of a process apart
/// after its end, and what they watched is closed only then. On a busy machine that was not so after 80 ms.
pub const PORT_PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts to have that port.
pub const PORT_RETRY: Duration = Duration::from_millis(20);
/// How long a worker waits before it accepts again after descriptors ran out.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);

// ---- strangers: those of whom only the address is known ----

/// Cells in each row of what is counted by address, over all workers: 4 or 8 bytes each, 2 MB in all,
/// whatever the number of addresses. An address is counted too high where others share its cells in
/// both rows: with 300 addresses and prefixes at their limits, one in 40,000.
pub const SOURCE_CELLS: usize = 1 << 16;
/// The part of a worker's connections that agents never get: connections that are not admitted yet,
/// spares, and those of servers, have it. Of the rest half is for agents, since each needs a data connection.
pub const RESERVE_DIVISOR: usize = 16;
/// How long a connection that is not admitted may make us wait before another takes its place, where
/// places have run out: two round trips to any place on earth. Where they have not, the bound is
/// `admission_timeout_ms`.
pub const SHED_AFTER: Duration = Duration::from_millis(500);
/// Connections that are looked at to find one that may be shed.
pub const SHED_LOOKS: usize = 16;
/// Between two mails that sum up connections that were closed at accept, for each reason.
pub const TURNED_AWAY_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of a PROXY header: one of version 1 has 107 at most, one of version 2 its addresses (216 for
/// those of Unix sockets) and what a balancer says beside them, such as a certificate's name.
pub const MAX_PROXY_HEADER_LEN: usize = 2 * 1024;
/// Address ranges in one list of the configuration.
pub const MAX_ADDRESS_RANGES: usize = 1024;
/// Agents of ours that are told to come back in one second, by one worker: half of the new sessions
/// that one core can begin.
pub const RETURNS_PER_SECOND: u32 = 500;
/// Shortest time after which a refused agent is told to come back.
pub const RETURN_MIN: Duration = Duration::from_secs(2);
/// Longest such time, whatever the number of those who were told before.
pub const RETURN_MAX: Duration = Duration::from_secs(60);

// ---- control ----

/// Between two pings on a signal connection, each way.
pub const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Silence after which the other end of a signal connection is dead: below the promised 10 s, and
/// long enough for two lost pings.
pub const SIGNAL_DEAD_AFTER: Duration = Duration::from_secs(9);
/// Signal connections that a gateway holds at once, over all servers.
pub const MAX_SIGNAL_CONNECTIONS: usize = 64;
/// Those of one server: one is in use, and those that it lost unnoticed end within
/// [`SIGNAL_DEAD_AFTER`]. A server that opens more would take the place of the others.
pub const MAX_SIGNAL_CONNECTIONS_OF_SERVER: usize = 8;
/// Bytes waiting to be written to one signal connection. A server that does not read for so long
/// that this fills (some 10,000 invitations) is as good as dead.
pub const MAX_SIGNAL_BACKLOG_LEN: usize = 1024 * 1024;
/// Frames of all signal connections that wait for the control thread; a connection is not read
/// while there is no room.
pub const SIGNAL_EVENTS: usize = 1024;
/// Time for ServerHello and GatewayHello after the handshake of a signal connection.
pub const SIGNAL_HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Invitations that one agent gets before it is refused: a server that declines, or comes and goes,
/// moves it on each time. More servers than that can't all be full or dying by chance.
pub const MAX_INVITATIONS_PER_AGENT: usize = 8;
/// Life after which a signal connection counts as sound: when it is lost, the server dials again
/// with the shortest wait. One that dies sooner, time after time, is dialed ever more slowly.
pub const SIGNAL_SOUND_AFTER: Duration = Duration::from_secs(10);
/// First wait before a server dials a gateway again; doubles up to [`RECONNECT_MAX`], with jitter.
pub const RECONNECT_MIN: Duration = Duration::from_millis(250);
/// Longest wait before a server or an agent dials again: an operator who repaired something does
/// not want to wait longer.
pub const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// Time for a TCP connection and TLS handshake with a gateway.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// Devices without a session that are remembered for how often they began one: 4 MB. A further one that
/// comes to rest takes the place of the one that may soonest begin as many as after a long rest.
pub const MAX_RESTING_DEVICES: usize = 16 * 1024;
/// Of those, how many are forgotten at an admission, where their rest is over: more than one, so that they
/// become fewer.
pub const RESTED_DEVICES_PER_ADMISSION: usize = 2;
// ---- upgrade ----

/// Time for a process that takes over to get a signal connection from every server, each after a dial and
/// a handshake. Then it gives up, and nothing has happened.
pub const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which the old process goes on alone, whatever the new one does: longer than the new one's own
/// bound, and the loading of its certificates.
pub const TAKE_OVER_BACKSTOP: Duration = Duration::from_secs(20);
/// How long a process that takes over waits for the sockets of the old one, which gives them out once
/// those who waited in the process before it are served.
pub const OFFER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two attempts of a server to follow one gateway to another process: each costs a handshake, and a
/// gateway may ask as often as it likes.
pub const SUCCESSOR_INTERVAL: Duration = Duration::from_secs(1);
/// Time for a process that has connected to ask for the sockets.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections on their way to the other process. Beyond these it does not read, and they are closed.
pub const MAX_PASSED_CONNECTIONS: usize = 1024;
/// Packets of the other process that wait for the control thread; it is not read while there is no room.
pub const UPGRADE_NEWS: usize = 64;
/// Bytes of a packet between two processes: the beginning of a connection, at most a ClientHello with its
/// last record whole, and its addresses.
pub const MAX_PACKET_LEN: usize = MAX_CLIENT_HELLO_LEN + MAX_RECORD_LEN + 1024;
/// Sockets that a process takes over: eight addresses of each of 256 workers.
pub const MAX_INHERITED_SOCKETS: usize = 2048;

// ---- reload ----

/// Between two looks at the configuration and the files that it names. A change that two looks in a row
/// agree on is read, so within 4 s: an operator who saves a file waits for it, and a program that writes
/// one in pieces has finished.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// What waits for the thread of reloads: a reload, and one list of revoked certificates for each signal connection.
pub const RELOAD_REQUESTS: usize = 1 + MAX_SIGNAL_CONNECTIONS;
/// Between two warnings of a certificate that ends soon.
pub const EXPIRY_WARNING_INTERVAL: Duration = Duration::from_secs(86_400);
/// Problems that a refused reload names in its line of the log and on the status page: `vestibule check`
/// has them all.
pub const REFUSAL_PROBLEMS: usize = 8;
/// Names of services that a gateway knows in its life: a reload that adds to them beyond this needs a
/// restart. It is a new set of [`MAX_SERVICES`] names fifteen times.
pub const MAX_SERVICE_NAMES: usize = 16 * MAX_SERVICES;

// ---- passthrough ----

/// Time from a server's Accepted to the end of the gateway's TLS: a round trip, with room for lost packets.
pub const STEP_DOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the agent's own handshake, where it ends at the server: as long as a gateway gives it by default.
pub const AGENT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

// ---- spares ----

/// Time from the request for a spare until it is claimed: [`DIAL_TIMEOUT`], and the way of the
/// request and the claim. Its ticket is void then.
pub const SPARE_ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a server to answer the session header on a spare with `Taken`, before the agent is
/// brought another way: a round trip, with room for a lost packet, and a fifth of what an agent waits
/// by default.
pub const SPARE_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server is not asked for spares after it lost, declined or did not bring one: each costs
/// two handshakes' CPU, and where they die early they must not be replaced as fast as they die.
pub const SPARE_PAUSE: Duration = Duration::from_secs(10);
/// Time over which the rate of arriving agents is averaged: a few times the refill of a far server,
/// so that the number follows a rush while it lasts.
pub const SPARE_RATE_WINDOW: Duration = Duration::from_secs(10);
/// Time to refill a spare before one was measured: three round trips of a far server.
pub const SPARE_FIRST_REFILL: Duration = Duration::from_millis(500);
/// How much longer than the gateway a server keeps a spare, so that it ends none which the gateway is
/// giving out at that moment.
pub const SPARE_LIFE_SLACK: Duration = Duration::from_secs(10);
/// Longest that a server keeps a spare, whatever the gateway says: the largest [`SPARE_LIFE_MS`] and
/// [`SPARE_LIFE_SLACK`].
pub const MAX_SPARE_LIFE: Duration = Duration::from_secs(3_610);
/// The part of a worker's connections that may be spares: agents need the rest, whatever
/// `max_spares` says.
pub const SPARES_DIVISOR: usize = 8;

// ---- agent ----

/// Bytes that an agent reads at once in each direction of a session: the content of one TLS record.
pub const AGENT_BUFFER_LEN: usize = 16 * 1024;
/// Time for a gateway's answer to `Open`: a little more than a gateway may be configured to wait for
/// a server ([`INVITATION_TIMEOUT_MS`]), so that its own refusal, which says more, comes first.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(125);
/// Threads of an agent that resolve the names of gateways. Sessions beyond these wait their turn,
/// within [`DIAL_TIMEOUT`].
pub const RESOLVER_THREADS: usize = 4;

// ---- server ----

/// Where a server has several gateways, one of them gets all seats but the part that this says: with a
/// quarter left, sessions of the others go on when one is taken over, and one that is alone gets most.
pub const SEATS_DIVISOR: usize = 4;
/// The part of its seats that a gateway is not told of: it knows a little earlier than the server that a
/// session has ended, and would be declined for the agent that it sends next.
pub const SEATS_SLACK_DIVISOR: usize = 16;
/// Time for looking a backend's name up. Nobody waits for it but the next lookup.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two lookups of the backends' names: a backend that moved is found this soon.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(10);
/// TLS configurations of data connections that are kept for one gateway, one for each of its workers.
/// More than a gateway's largest number of workers: only a hostile one makes us build each anew.
pub const MAX_CACHED_HINTS: usize = 256;
/// Bytes in each text of a session header but the device's identity: a DNS name, or the longest ALPN.
pub const MAX_PRINTED_LEN: usize = 255;

// ---- telemetry ----

/// Lines that the log holds while its output is blocked; further ones are dropped and counted.
pub const LOG_BACKLOG_LINES: usize = 16 * 1024;
/// Lines a second about peers that are not known (bad handshakes, refused connections); further
/// ones are counted and summed up in one line.
pub const STRANGER_LINES_PER_SECOND: u32 = 20;
/// Connections to the telemetry listener at once.
pub const MAX_TELEMETRY_CONNECTIONS: usize = 16;
/// Time for one HTTP request on the telemetry listener.
pub const TELEMETRY_TIMEOUT: Duration = Duration::from_secs(5);
/// Sessions that a status page lists, the oldest first: a page with all of them helps nobody.
pub const LISTED_SESSIONS: usize = 50;
/// Largest status page that `vestibule status` reads, in bytes. The largest that we build lists
/// [`MAX_SERVICES`] names on each of [`MAX_SIGNAL_CONNECTIONS`]: 64 × 256 × (63 + 3) = 1.1 MB.
pub const MAX_STATUS_LEN: usize = 4 * 1024 * 1024;

// ---- operator ----

/// Connections to the operator's socket at once: people, and a program or two.
pub const MAX_OPERATOR_CONNECTIONS: usize = 8;
/// Time for one request on the operator's socket: to end every session of a busy gateway takes workers a
/// second, a disk that is slow some more.
pub const OPERATOR_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request on the operator's socket: the names of 2,000 sessions.
pub const MAX_OPERATOR_REQUEST_LEN: usize = 64 * 1024;
/// Sessions that one answer lists: a screen holds fewer, and a program can ask for less than all.
pub const MAX_LISTED_SESSIONS: usize = 1_000;
/// Largest answer that the command line reads. The largest that we build lists [`MAX_BLOCKS`] blocks, or
/// [`MAX_LISTED_SESSIONS`] sessions, of 1 KB each.
pub const MAX_OPERATOR_ANSWER_LEN: usize = 2 * 1024 * 1024;
/// From an operator's order to drain until it begins: a process without sessions ends at once, and its answer
/// is to be on its way by then.
pub const DRAIN_DELAY: Duration = Duration::from_millis(100);
/// Devices and addresses that are kept out. Each is looked at for each connection: all of them cost some
/// microseconds.
pub const MAX_BLOCKS: usize = 1_024;
/// Bytes of what an operator notes with a block.
pub const MAX_BLOCK_NOTE_LEN: usize = 200;
/// Bytes of the file that blocks are kept in: [`MAX_BLOCKS`] of 1 KB each.
pub const MAX_BLOCKS_FILE_LEN: u64 = 1024 * 1024;
/// Longest time of a block that ends by itself: longer ones are for good.
pub const MAX_BLOCK_TIME: Duration = Duration::from_secs(10 * 366 * 86_400);
/// Bytes of what a request names in its line of the audit: a few names of sessions.
pub const MAX_AUDIT_TEXT_LEN: usize = 1_024;
/// Sessions and connections that a worker looks at, to end those that an operator means, in one turn of its
/// loop: ending one costs some 20 µs.
pub const SWEPT_PER_TURN: usize = 64;
/// Servers that are drained by name: as many as can be connected.
pub const MAX_DRAINED_SERVERS: usize = MAX_SIGNAL_CONNECTIONS;

// ---- demo ----

/// Time for each process of the demo to start, and for the first signal connection. On a busy machine
/// with a build beside it, 3 s were seen.
pub const DEMO_START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for each process of the demo to end after SIGTERM; then it is killed.
pub const DEMO_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the agents of the demo to finish what they are at when it ends.
pub const DEMO_FINISH_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks at a process of the demo that starts or ends.
pub const DEMO_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Between two pictures of the demo: as often as a person can read it.
pub const DEMO_REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// Time for one visit of an agent of the demo, some eight requests: longer is an error.
pub const DEMO_VISIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that the demo's backend sends at most for one request: enough to watch a bulk transfer.
pub const DEMO_MAX_DOWNLOAD_LEN: u64 = 100_000_000_000;
/// Connections to the demo's backend at once: its own few agents, and a load generator beside them.
pub const DEMO_BACKEND_CONNECTIONS: usize = 1024;
/// Callers that the page of the demo's backend lists: further ones are served and not listed.
pub const DEMO_LISTED_CALLERS: usize = 50;
/// Bytes at the end of each log that a failed demo prints.
pub const DEMO_LOG_TAIL_LEN: u64 = 2000;
/// Bytes of the page at `/metrics` that the demo reads.
pub const DEMO_MAX_METRICS_LEN: usize = 1024 * 1024;
