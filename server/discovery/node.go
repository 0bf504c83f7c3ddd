package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bilibili/discovery/model"
	kratoslog "github.com/go-kratos/kratos/pkg/log"
)

const (
	protectTime  = 2 * renewEvery
	syncTimeout  = 3 * time.Second
	leaveTimeout = 2 * time.Second
	formLimit    = 1 << 20 // bytes
)

// NodeConfig is a node of discovery; its TOML is that of bilibili/discovery.
type NodeConfig struct {
	Nodes         []string            `toml:"nodes" doc:"all nodes of this zone (host:port), this one included: each change is passed on to the others"`
	Zones         map[string][]string `toml:"zones" doc:"nodes of the other zones, by zone: each change is passed on to one of each"`
	EnableProtect bool                `toml:"enableProtect" doc:"whether lists are refused for the first 60 s, unless another node had them: clients keep theirs until all have registered again"`
	HTTPServer    NodeServer          `toml:"httpServer"`
	Env           Env                 `toml:"env"`
}

// NodeServer is where a node listens.
type NodeServer struct {
	Addr string `toml:"addr" doc:"address (host:port) to listen on"`
}

// DefaultNodeConfig is a node on its own at the usual port of this machine.
func DefaultNodeConfig() NodeConfig {
	return NodeConfig{HTTPServer: NodeServer{Addr: "127.0.0.1:7171"}, Env: DefaultEnv()}
}

// IgnoredNodeKeys are keys of the original's files that mean nothing here.
func IgnoredNodeKeys() []string {
	return []string{"httpServer.timeout", "httpServer.network", "httpServer.readTimeout", "httpServer.writeTimeout", "httpClient", "log", "statsd"}
}

// Validate says which setting is wrong, and what would be right.
func (c *NodeConfig) Validate() error {
	if _, _, err := net.SplitHostPort(c.HTTPServer.Addr); err != nil {
		return fmt.Errorf("httpServer.addr %q: an address like 127.0.0.1:7171 is needed", c.HTTPServer.Addr)
	}
	for name, value := range map[string]string{"env.zone": c.Env.Zone, "env.deployEnv": c.Env.DeployEnv, "env.host": c.Env.Host} {
		if value == "" {
			return fmt.Errorf("%s is empty: a node needs one", name)
		}
	}
	zones := map[string][]string{"nodes": c.Nodes}
	for zone, nodes := range c.Zones {
		zones["zones."+zone] = nodes
	}
	for key, nodes := range zones {
		for _, node := range nodes {
			if host, port, err := net.SplitHostPort(node); err != nil || host == "" || port == "" {
				return fmt.Errorf("%s: %q is no address like 10.0.0.1:7171", key, node)
			}
		}
	}
	return nil
}

// A Node is one of discovery's own processes: it holds who lives, answers and keeps polls,
// and passes changes on to the other nodes. What it knows is in memory only.
type Node struct {
	cfg      NodeConfig
	log      *slog.Logger
	registry *registry
	peers    *peers
	start    string // when, for startHeader
	listener net.Listener
	serving  atomic.Bool

	turn sync.Mutex // held over a change and its way into the peers' queues

	mu           sync.Mutex
	protectUntil time.Time // mu guards; until then lists are refused
}

// NewNode checks cfg and makes a node of it.
func NewNode(cfg NodeConfig, log *slog.Logger) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	silenceKratos()
	n := &Node{cfg: cfg, log: log, registry: newRegistry(), start: strconv.FormatInt(time.Now().UnixNano(), 36)}
	n.peers = newPeers(cfg, n.registry, log)
	return n, nil
}

// silenceKratos turns off the log of the library that the data model comes from: it writes
// to stderr in a form of its own, and what it would say this package says.
var silenceKratos = sync.OnceFunc(func() { kratoslog.Init(&kratoslog.Config{}) })

// ServeNode runs a node until ctx ends.
func ServeNode(ctx context.Context, cfg NodeConfig, log *slog.Logger) error {
	node, err := NewNode(cfg, log)
	if err != nil {
		return err
	}
	if err := node.Listen(); err != nil {
		return err
	}
	return node.Run(ctx)
}

// Listen binds the port; the error names it and its setting.
func (n *Node) Listen() error {
	listener, err := net.Listen("tcp", n.cfg.HTTPServer.Addr)
	if err != nil {
		return fmt.Errorf("httpServer.addr %s: %w", n.cfg.HTTPServer.Addr, err)
	}
	n.listener = listener
	return nil
}

// Addr is the bound address; nil before Listen.
func (n *Node) Addr() net.Addr {
	if n.listener == nil {
		return nil
	}
	return n.listener.Addr()
}

// Run serves until ctx ends, then leaves the other nodes' lists. Listen comes first.
func (n *Node) Run(ctx context.Context) error {
	self := AdvertiseAddr(n.listener.Addr())
	n.peers.connect(self)
	serveCtx, stopPolls := context.WithCancel(context.Background())
	defer stopPolls()
	server := &http.Server{
		Handler:           n.handler(),
		BaseContext:       func(net.Listener) context.Context { return serveCtx },
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      2 * pollWait,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	// Nodes that start together ask each other: each says at once that it has no lists yet.
	n.protect(syncTimeout)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(n.listener) }()
	if synced := n.peers.sync(ctx); n.cfg.EnableProtect && !synced {
		n.protect(protectTime)
	} else {
		n.protect(0)
	}
	me := n.selfInstance(self)
	n.registry.register(copyOf(me))
	n.peers.introduce(me)
	n.serving.Store(true)
	keepCtx, stopKeeping := context.WithCancel(ctx)
	var kept sync.WaitGroup
	kept.Go(func() { n.keep(keepCtx, me) })
	kept.Go(func() { n.peers.follow(keepCtx) })
	n.log.Info("discovery node serves", "addr", self, "zone", n.cfg.Env.Zone, "env", n.cfg.Env.DeployEnv, "peers", len(n.peers.all()))

	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serve httpServer.addr %s: %w", n.cfg.HTTPServer.Addr, err)
	case <-ctx.Done():
	}
	n.serving.Store(false)
	stopKeeping()
	kept.Wait()
	stopPolls()
	stopCtx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if stopErr := server.Shutdown(stopCtx); errors.Is(stopErr, context.DeadlineExceeded) {
		server.Close()
	}
	n.peers.replicate(change{kind: changeCancel, instance: me, at: time.Now().UnixNano()})
	n.peers.close()
	return err
}

// Ready returns nil when the node gives lists, else why it doesn't yet.
func (n *Node) Ready() error {
	switch {
	case !n.serving.Load():
		return errors.New("not serving yet")
	case n.protected():
		return errors.New("protected: waiting for all to register again")
	}
	return nil
}

// protect refuses lists for so long from now on.
func (n *Node) protect(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.protectUntil = time.Now().Add(d)
}

// protected is whether lists are refused now.
func (n *Node) protected() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Now().Before(n.protectUntil)
}

// selfInstance is the node itself: clients find the nodes by it.
func (n *Node) selfInstance(addr string) *model.Instance {
	now := time.Now().UnixNano()
	return &model.Instance{
		Region: n.cfg.Env.Region, Zone: n.cfg.Env.Zone, Env: n.cfg.Env.DeployEnv, Hostname: n.cfg.Env.Host,
		AppID: appSelf, Addrs: []string{"http://" + addr}, Status: model.InstanceStatusUP,
		RegTimestamp: now, UpTimestamp: now, LatestTimestamp: now, RenewTimestamp: now, DirtyTimestamp: now,
	}
}

// keep renews the node's own instance and evicts others', until ctx ends.
func (n *Node) keep(ctx context.Context, me *model.Instance) {
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	evict := time.NewTicker(time.Minute)
	defer evict.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-renew.C:
			if _, ok := n.registry.renew(me.Env, me.AppID, me.Zone, me.Hostname); !ok {
				n.registry.register(copyOf(me))
			}
			n.peers.replicate(change{kind: changeRenew, instance: me})
		case <-evict.C:
			for _, in := range n.registry.evict() {
				n.log.Warn("evicted an instance that stopped renewing", "app", in.AppID, "host", in.Hostname, "zone", in.Zone)
			}
		}
	}
}

// An answer is what every request gets, as JSON; data is left out when nil.
type answer struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	TTL     int    `json:"ttl"`
	Data    any    `json:"data,omitempty"`
	// Error lists the applications of a poll that have no instance, by code.
	Error map[string][]string `json:"error,omitempty"`
}

func (n *Node) write(w http.ResponseWriter, status int, a answer) {
	a.TTL = 1
	if a.Message == "" {
		a.Message = fmt.Sprint(a.Code)
	}
	text, err := json.Marshal(a)
	if err != nil {
		n.log.Error("encode a discovery answer", "err", err)
		text = fmt.Appendf(nil, `{"code":%d,"message":"%d","ttl":1}`, codeServerError, codeServerError)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set(startHeader, n.start)
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that left asks again
}
