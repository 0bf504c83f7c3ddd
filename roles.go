package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"barrage/server/admin"
	logicpb "barrage/server/api/logic"
	"barrage/server/api/protocol"
	"barrage/server/comet"
	"barrage/server/comet/route"
	"barrage/server/console"
	"barrage/server/discovery"
	"barrage/server/fdtable"
	"barrage/server/job"
	"barrage/server/logic"
)

// A server is a role that is wired but not running yet.
type server interface {
	Listen() error
	Run(context.Context) error
	Ready() error
}

// A role is a server with its admin page.
type role struct {
	name   string
	server server
	admin  *admin.Server
	// assist, if not nil, begins what the server needs of others, until ctx ends: not
	// before the ports are bound, so that a command that can't run says only why.
	assist func(ctx context.Context)
}

// newRole adds the admin page's readiness to a server.
func newRole(name string, s server, page *admin.Server) *role {
	page.AddCheck(name, s.Ready)
	return &role{name: name, server: s, admin: page}
}

// listen binds the role's ports.
func (r *role) listen() error { return errors.Join(r.admin.Listen(), r.server.Listen()) }

// part is what runs of the role: its server, and what it needs to the last.
func (r *role) part() part {
	return part{r.name, func(ctx context.Context) error {
		if r.assist != nil {
			assistCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
			defer stop()
			r.assist(assistCtx)
		}
		return r.server.Run(ctx)
	}}
}

func (r *role) adminPart() part { return part{r.name + " admin page", r.admin.Run} }

// run serves one role alone until ctx ends, with the demo page beside it, which may be nil.
func (r *role) run(ctx context.Context, p *process, page *console.Server) error {
	if err := r.listen(); err != nil {
		return usageError{err}
	}
	parts := []part{r.part(), r.adminPart()}
	if page != nil {
		if err := page.Listen(); err != nil {
			return usageError{fmt.Errorf("console.addr: %w", err)}
		}
		if addr := page.Addr(); addr != nil {
			p.log.Info("demo page", "url", "http://"+addr.String())
		}
		parts = append(parts, part{"demo page", page.Run})
	}
	p.log.Info(r.name+" serves", "admin", addrOf(r.admin))
	defer p.log.Info(r.name + " has ended")
	return runParts(ctx, parts...)
}

// withPage is a role's configuration with the demo page's.
type withPage[C any] struct {
	Role    C              `toml:",inline"`
	Console console.Config `toml:"console"`
}

// newPage makes the demo page, beside the role whose admin page has its counters.
func newPage(p *process, cfg console.Config, beside *admin.Server, deps console.Deps) (*console.Server, error) {
	deps.Log, deps.Metrics = p.log.With("role", "console"), beside.Registry()
	page, err := console.New(cfg, deps)
	if err != nil {
		return nil, fmt.Errorf("console.%w", err)
	}
	return page, nil
}

// addrOf is the address of an admin page, "off" without one.
func addrOf(s *admin.Server) string {
	if s.Addr() == nil {
		return "off"
	}
	return s.Addr().String()
}

// goimKeys are keys of goim that mean nothing to a role: its own, those of older example
// files, which goim doesn't read any more, and those that say in two places what env says.
func goimKeys(ofRole []string) []string {
	return append(ofRole, "perf", "onlineTick", "timer", "protoSection", "env.env", "env.ipAddrs", "useNats", "nats",
		"discovery.region", "discovery.zone", "discovery.env", "discovery.host")
}

func runComet(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if os.Getenv("GOGC") == "" {
		// A comet's heap is its sessions, and sweeps allocate little: collecting twice as
		// often costs next to nothing, and a storm of connects leaves fewer holes.
		debug.SetGCPercent(50)
	}
	return serve(ctx, "comet", withPage[comet.Config]{Role: comet.DefaultConfig(), Console: console.DefaultConfig()},
		goimKeys(comet.IgnoredKeys()), args, stdout, stderr,
		func(ctx context.Context, p *process, cfg withPage[comet.Config]) error {
			r, err := newComet(p, cfg.Role)
			if err != nil {
				return usageError{err}
			}
			server := r.server.(*comet.Server)
			onReload(p, func(cfg withPage[comet.Config]) ([]string, error) { return server.Reload(cfg.Role) })
			page, err := newPage(p, cfg.Console, r.admin, console.Deps{WebSocket: func() string { return firstAddr(server.WebSocketAddrs()) }})
			if err != nil {
				return usageError{err}
			}
			return r.run(ctx, p, page)
		})
}

func newComet(p *process, cfg comet.Config) (*role, error) {
	log := p.log.With("role", "comet")
	page := p.admin(cfg.Admin, "comet")
	client := discovery.NewClient(cfg.Discovery, cfg.Env, log)
	conn, err := dialLogic(client, cfg.RPCClient.Dial)
	if err != nil {
		return nil, err
	}
	server, err := comet.New(cfg, comet.Deps{
		Logic:   logicpb.NewLogicClient(conn),
		Log:     log,
		Metrics: page.Registry(),
		Register: func(ctx context.Context, in discovery.Instance) (comet.Registration, error) {
			return orNil[comet.Registration](client.Register(ctx, in))
		},
	})
	if err != nil {
		return nil, err
	}
	r := newRole("comet", server, page)
	r.assist = func(ctx context.Context) {
		conn.Connect()
		context.AfterFunc(ctx, func() { conn.Close() })
	}
	page.AddCheck("logic", func() error {
		if state := conn.GetState(); state != connectivity.Ready {
			conn.Connect()
			return fmt.Errorf("no connection to logic yet (%s)", state)
		}
		return nil
	})
	return r, nil
}

// dialLogic makes a connection to all logic processes that discovery lists, now and later;
// it begins with Connect. Which of them a call goes to is for package route to say.
func dialLogic(client *discovery.Client, timeout time.Duration) (*grpc.ClientConn, error) {
	retry := backoff.DefaultConfig
	retry.MaxDelay = time.Second
	conn, err := grpc.NewClient(client.Resolver().Scheme()+":///"+discovery.AppLogic,
		grpc.WithResolvers(client.Resolver()),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultServiceConfig(route.ServiceConfig),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(protocol.MaxMessage), grpc.MaxCallSendMsgSize(protocol.MaxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: timeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 10 * time.Second}),
		grpc.WithIdleTimeout(0),
		grpc.WithNoProxy(), // as job and logic do: a cluster's processes reach each other by themselves
	)
	if err != nil {
		return nil, fmt.Errorf("connect to logic: %w", err)
	}
	return conn, nil
}

// watchComets follows discovery's list of comets once start has been called.
func watchComets(client *discovery.Client) (lists <-chan []discovery.Instance, start func(context.Context)) {
	relayed := make(chan []discovery.Instance)
	return relayed, func(ctx context.Context) {
		newest := client.Watch(ctx, discovery.AppComet)
		go func() {
			for {
				select {
				case list := <-newest:
					select {
					case relayed <- list:
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
}

func runLogic(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fdtable.CalmMonitor()
	return serve(ctx, "logic", withPage[logic.Config]{Role: logic.DefaultConfig(), Console: console.DefaultConfig()},
		goimKeys(logic.IgnoredKeys()), args, stdout, stderr,
		func(ctx context.Context, p *process, cfg withPage[logic.Config]) error {
			r, err := newLogic(p, cfg.Role)
			if err != nil {
				return usageError{err}
			}
			server := r.server.(*logic.Server)
			onReload(p, func(cfg withPage[logic.Config]) ([]string, error) { return server.Reload(cfg.Role) })
			page, err := newPage(p, cfg.Console, r.admin, console.Deps{API: func() string { return server.HTTPAddr().String() }})
			if err != nil {
				return usageError{err}
			}
			return r.run(ctx, p, page)
		})
}

func newLogic(p *process, cfg logic.Config) (*role, error) {
	log := p.log.With("role", "logic")
	page := p.admin(cfg.Admin, "logic")
	client := discovery.NewClient(cfg.Discovery, cfg.Env, log)
	comets, watch := watchComets(client)
	server, err := logic.New(cfg, logic.Deps{
		Log:       log,
		Metrics:   page.Registry(),
		Instances: comets,
		Register: func(ctx context.Context, in discovery.Instance) (io.Closer, error) {
			return orNil[io.Closer](client.Register(ctx, in))
		},
	})
	if err != nil {
		return nil, err
	}
	r := newRole("logic", server, page)
	r.assist = watch
	return r, nil
}

func runJob(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fdtable.CalmMonitor()
	return serve(ctx, "job", job.DefaultConfig(), goimKeys(job.IgnoredKeys()), args, stdout, stderr,
		func(ctx context.Context, p *process, cfg job.Config) error {
			r, err := newJob(p, cfg)
			if err != nil {
				return usageError{err}
			}
			return r.run(ctx, p, nil)
		})
}

func newJob(p *process, cfg job.Config) (*role, error) {
	log := p.log.With("role", "job")
	page := p.admin(cfg.Admin, "job")
	client := discovery.NewClient(cfg.Discovery, cfg.Env, log)
	comets, watch := watchComets(client)
	server, err := job.New(cfg, job.Deps{
		Log:       log,
		Metrics:   page.Registry(),
		Instances: comets,
	})
	if err != nil {
		return nil, err
	}
	r := newRole("job", server, page)
	r.assist = watch
	return r, nil
}

// orNil passes on what a constructor returned, as an interface that is nil with an error.
func orNil[I any, T any](value T, err error) (I, error) {
	var none I
	if err != nil {
		return none, err
	}
	return any(value).(I), nil
}

// nodeConfig is a discovery node with its admin page.
type nodeConfig struct {
	Node  discovery.NodeConfig `toml:",inline"`
	Admin admin.Config         `toml:"admin"`
}

func runDiscovery(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	defaults := nodeConfig{Node: discovery.DefaultNodeConfig(), Admin: admin.DefaultConfig("discovery")}
	return serve(ctx, "discovery", defaults, discovery.IgnoredNodeKeys(), args, stdout, stderr,
		func(ctx context.Context, p *process, cfg nodeConfig) error {
			node, err := discovery.NewNode(cfg.Node, p.log.With("role", "discovery"))
			if err != nil {
				return usageError{err}
			}
			return newRole("discovery", node, p.admin(cfg.Admin, "discovery")).run(ctx, p, nil)
		})
}

// handleJSON adds a page that is a JSON text.
func handleJSON(page *admin.Server, pattern string, text []byte, log *slog.Logger) {
	line := append(slices.Clip(text), '\n')
	page.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write(line); err != nil {
			log.Debug("write an admin page", "page", pattern, "err", err)
		}
	}))
}
