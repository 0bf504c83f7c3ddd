package comet

import (
	"fmt"
	"time"

	"barrage/server/admin"
	"barrage/server/config"
	"barrage/server/discovery"
)

// Policies for sessions that read more slowly than is pushed to them.
const (
	slowSkip  = "skip"  // they miss the frames that fell off the log
	slowClose = "close" // they are closed
)

// Config is a comet's configuration. Sections and keys are goim's where goim has them.
type Config struct {
	Env       discovery.Env    `toml:"env"`
	Discovery discovery.Config `toml:"discovery"`
	RPCServer RPCServerConfig  `toml:"rpcServer"`
	RPCClient RPCClientConfig  `toml:"rpcClient"`
	TCP       TCPConfig        `toml:"tcp"`
	WebSocket WebSocketConfig  `toml:"websocket"`
	Protocol  ProtocolConfig   `toml:"protocol"`
	Whitelist WhitelistConfig  `toml:"whitelist"`
	Session   SessionConfig    `toml:"session"`
	Room      RoomConfig       `toml:"room"`
	Limit     LimitConfig      `toml:"limit"`
	Online    OnlineConfig     `toml:"online"`
	Drain     DrainConfig      `toml:"drain"`
	Admin     admin.Config     `toml:"admin"`
}

// RPCServerConfig is the gRPC service that job calls.
type RPCServerConfig struct {
	Addr string `toml:"addr" doc:"Address of the gRPC service for job."`
}

// RPCClientConfig is how logic is called.
type RPCClientConfig struct {
	Dial    time.Duration `toml:"dial" range:"10ms..1m" doc:"Time to connect to logic."`
	Timeout time.Duration `toml:"timeout" range:"10ms..1m" doc:"Time for one call to logic; for one about many sessions, which wait for their turn there too, protocol.handshakeTimeout if that is more."`
	Batch   int           `toml:"batch" range:"1..4096" doc:"Sessions at most that one call to logic connects, ends or renews. goim's logic, which doesn't know such calls, gets one for each."`
	Batches int           `toml:"batches" range:"1..128" doc:"Such calls under way at a time, of each kind; the sessions that come meanwhile go along with the next one."`
}

// TCPConfig is the TCP listener and what holds for every accepted socket.
type TCPConfig struct {
	Bind        []string `toml:"bind" doc:"Addresses for TCP clients."`
	SndBuf      int      `toml:"sndbuf" range:"0..1073741824" doc:"Send buffer of a socket in bytes, 0 for the kernel's own sizing."`
	RcvBuf      int      `toml:"rcvbuf" range:"0..1073741824" doc:"Receive buffer of a socket in bytes, 0 for the kernel's own sizing. It bounds what a client can make comet read at once."`
	KeepAlive   bool     `toml:"keepalive" doc:"Whether TCP keep-alive probes are sent."`
	TLSOpen     bool     `toml:"tlsOpen" doc:"Whether TCP clients are served over TLS as well."`
	TLSBind     []string `toml:"tlsBind" doc:"Addresses for TCP clients over TLS."`
	CertFile    []string `toml:"certFile" doc:"PEM files of the certificates for TCP clients; empty for those of websocket.certFile."`
	PrivateFile []string `toml:"privateFile" doc:"PEM files of their keys, in the same order."`
}

// WebSocketConfig is the WebSocket listener.
type WebSocketConfig struct {
	Bind        []string `toml:"bind" doc:"Addresses for WebSocket clients."`
	TLSOpen     bool     `toml:"tlsOpen" doc:"Whether WebSocket clients are served over TLS as well."`
	TLSBind     []string `toml:"tlsBind" doc:"Addresses for WebSocket clients over TLS."`
	CertFile    []string `toml:"certFile" doc:"PEM files of the certificates, each with the intermediate ones behind it; read again when they change."`
	PrivateFile []string `toml:"privateFile" doc:"PEM files of the certificates' keys, in the same order."`
}

// ProtocolConfig bounds what happens before a session is authenticated.
type ProtocolConfig struct {
	HandshakeTimeout time.Duration `toml:"handshakeTimeout" range:"10ms..10m" doc:"Time from connect to the auth frame, and from there to logic's answer; a session that others are before waits so long for its turn."`
	FirstFrames      int           `toml:"firstFrames" range:"0..255" doc:"Frames of other operations that are skipped before auth."`
	UpgradeBytes     int           `toml:"upgradeBytes" range:"512..65536" doc:"Largest WebSocket upgrade request in bytes."`
}

// WhitelistConfig is the members whose every frame is logged.
type WhitelistConfig struct {
	Whitelist []int64 `toml:"whitelist" doc:"Member ids whose every frame is logged, in and out."`
	WhiteLog  string  `toml:"whiteLog" doc:"File that these frames are appended to; empty for the process's log."`
}

// SessionConfig bounds one session.
type SessionConfig struct {
	MaxPending int `toml:"maxPending" range:"4096..1073741824" doc:"Bytes that wait for a session beside its rooms' logs."`
	MaxAccepts int `toml:"maxAccepts" range:"1..65536" doc:"Operations that a session can accept."`
}

// RoomConfig is how rooms are kept and swept.
type RoomConfig struct {
	LogBytes      int           `toml:"logBytes" range:"4096..1073741824" doc:"Bytes of frames that a room keeps in each shard for members that lag."`
	MailboxBytes  int           `toml:"mailboxBytes" range:"4096..1073741824" doc:"Bytes of pushes that wait in a shard's mailbox before RPCs wait."`
	MinInterval   time.Duration `toml:"minInterval" range:"0s..10s" doc:"Least time between the beginnings of two sweeps of a room: more latency for less CPU."`
	SlowPolicy    string        `toml:"slowPolicy" oneof:"skip close" doc:"What happens to a session that falls off a room's log: skip or close."`
	SendfileBytes int           `toml:"sendfileBytes" range:"0..1073741824" doc:"Bytes from which on a write that many members get goes out by sendfile, which doesn't copy them, instead of send. 0 is never."`
	Shards        int           `toml:"shards" range:"0..1024" doc:"Shards, 0 for one a CPU."`
}

// LimitConfig bounds connections. 0 is no limit.
type LimitConfig struct {
	Connections      int   `toml:"connections" range:"0..2147483647" doc:"Connections at a time, 0 for what the descriptor limit allows."`
	PerAddress       int   `toml:"perAddress" range:"0..2147483647" doc:"Connections at a time from one address, 0 for no limit."`
	PerAddressRate   int   `toml:"perAddressRate" range:"0..2147483647" doc:"Connects a second from one address, 0 for no limit."`
	DescriptorTables int   `toml:"descriptorTables" range:"0..1024" doc:"Tables of file descriptors that sessions are spread over, each a thread and a shard with as many sessions as the limit of open files allows; room.shards then counts for nothing. 0 is the process's one table. Not for TLS."`
	Memory           int64 `toml:"memory" range:"0.." doc:"Bytes of memory in use above which no connection is accepted, 0 for no limit."`
}

// OnlineConfig is the report of room counts to logic.
type OnlineConfig struct {
	Period time.Duration `toml:"period" range:"10ms..1m" doc:"Time between two reports of room counts to logic."`
}

// DrainConfig is how a comet ends.
type DrainConfig struct {
	Window time.Duration `toml:"window" range:"0s..1h" doc:"Time over which the sessions are closed at the end."`
}

// DefaultConfig returns the configuration that holds where nothing else is said.
func DefaultConfig() Config {
	return Config{
		Env:       discovery.DefaultEnv(),
		Discovery: discovery.Config{Nodes: []string{"127.0.0.1:7171"}},
		RPCServer: RPCServerConfig{Addr: ":3109"},
		RPCClient: RPCClientConfig{Dial: time.Second, Timeout: time.Second, Batch: 256, Batches: 4},
		TCP:       TCPConfig{Bind: []string{":3101"}, RcvBuf: 8192, KeepAlive: true, TLSBind: []string{":3104"}},
		WebSocket: WebSocketConfig{Bind: []string{":3102"}, TLSBind: []string{":3103"}},
		Protocol:  ProtocolConfig{HandshakeTimeout: 5 * time.Second, FirstFrames: 16, UpgradeBytes: 8192},
		Session:   SessionConfig{MaxPending: 256 << 10, MaxAccepts: 1024},
		Room:      RoomConfig{LogBytes: 4 << 20, MailboxBytes: 64 << 20, SendfileBytes: 4 << 10, SlowPolicy: slowSkip},
		Online:    OnlineConfig{Period: 10 * time.Second},
		Drain:     DrainConfig{Window: 2 * time.Second},
		Admin:     admin.Config{Addr: "127.0.0.1:3190"},
	}
}

// IgnoredKeys are goim's keys that mean nothing here.
func IgnoredKeys() []string {
	return []string{
		"debug", "maxProc", "serverTick",
		"rpcServer.network", "rpcServer.timeout", "rpcServer.idleTimeout", "rpcServer.maxLifeTime",
		"rpcServer.forceCloseWait", "rpcServer.keepaliveInterval", "rpcServer.keepaliveTimeout",
		"tcp.reader", "tcp.readBuf", "tcp.readBufSize", "tcp.writer", "tcp.writeBuf", "tcp.writeBufSize",
		"protocol.timer", "protocol.timerSize", "protocol.svrProto", "protocol.cliProto",
		"bucket.size", "bucket.channel", "bucket.room", "bucket.routineAmount", "bucket.routineSize",
	}
}

// Validate returns an error that names every field out of range, and its range.
func (c *Config) Validate() error {
	if err := config.Check(c); err != nil {
		return err
	}
	for _, l := range tlsListeners(c) {
		certs, keys := len(l.files.Certificates), len(l.files.Keys)
		if l.open && (certs == 0 || certs != keys) {
			return fmt.Errorf("%[1]s.certFile has %[2]d files and %[1]s.privateFile %[3]d: TLS needs at least one, and a key for each", l.section, certs, keys)
		}
	}
	if c.Limit.DescriptorTables > 0 && (c.TCP.TLSOpen || c.WebSocket.TLSOpen) {
		return fmt.Errorf("limit.descriptorTables is %d and tcp.tlsOpen or websocket.tlsOpen is true: TLS sessions can only be in the process's own table, so have one comet for each, or set limit.descriptorTables to 0", c.Limit.DescriptorTables)
	}
	if !c.TCP.TLSOpen && !c.WebSocket.TLSOpen && len(c.TCP.Bind)+len(c.WebSocket.Bind) == 0 {
		return fmt.Errorf("tcp.bind and websocket.bind are both empty, one address is needed")
	}
	return nil
}
