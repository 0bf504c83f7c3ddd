// Package cluster starts the processes under test, waits until they work, says what each
// of them uses, and stops them: whatever happens to the harness, none is left behind.
package cluster

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// Config says what is started.
type Config struct {
	Exe    string   // the binary whose subcommands are the roles
	Logs   string   // folder for the processes' logs
	Comets int      // how many
	Comet  []string // further flags of every comet
	// CometEnv is variables (NAME=VALUE) of every comet's environment, beside this process's.
	CometEnv []string
	// CometTimerSlack is how late the kernel may wake a thread of a comet that sleeps for a
	// time; 0 leaves it at this process's, which is 50 us mostly.
	CometTimerSlack time.Duration
	Redis           Redis // EmbeddedRedis or RedisServer; "": the former
	Logic           []string
	Job             []string
	TLS             bool // the comets serve TLS too, with a certificate made for the run
	// Advertise is the IP address on which the comets listen for clients, and which clients
	// are told; "": 127.0.0.1. Everything else is within this machine.
	Advertise string
	// Ready is the most that the processes may take until they work. 0 is one minute.
	Ready time.Duration
	// Grace is the most that a process may take to end. 0 is DefaultGrace.
	Grace time.Duration
}

const defaultReady = time.Minute

// DefaultGrace is how long a process of a cluster may take to end where Config doesn't say.
const DefaultGrace = 5 * time.Second

// The roles, by their subcommands.
const (
	RoleServices = "services"
	RoleLogic    = "logic"
	RoleJob      = "job"
	RoleComet    = "comet"
	RoleRedis    = "redis" // redis-server, where Config.Redis asks for it
)

// A Cluster is the processes under test, all on this machine.
type Cluster struct {
	Push  string   // host:port of logic's HTTP API; of a Target a URL as well
	TCP   []string // addresses of the comets for TCP clients
	WS    []string // and for WebSocket clients
	RPC   []string // and of their gRPC service; none of a Target
	Kafka string   // brokers, "" of a Target

	TCPTLS []string // the same inside TLS, where Config.TLS is set
	WSS    []string
	Trusts *x509.CertPool // what their certificate is checked against; nil: what the system trusts
	// Authority is the same as PEM, for agents; nil as well.
	Authority []byte
	// PushKey and PushRoots are a Target's.
	PushKey   string
	PushRoots *x509.CertPool

	cfg     Config
	ports   *Ports
	spawner *spawner
	died    func(*ExitError)
	secrets string // folder of the certificate and its key, "" for none

	mu        sync.Mutex // guards what follows
	processes []*Process // in the order of their start
	stopped   bool
}

// Start starts all processes and returns when every one is ready. died is called, by
// another goroutine, for a process that ends before Stop; Start itself returns the error
// of one that ends earlier. On error nothing is left running.
func Start(ctx context.Context, cfg Config, died func(*ExitError)) (*Cluster, error) {
	if cfg.Ready == 0 {
		cfg.Ready = defaultReady
	}
	if cfg.Advertise == "" {
		cfg.Advertise = "127.0.0.1"
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	ports, err := NewPorts()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &Cluster{cfg: cfg, ports: ports, spawner: newSpawner()}
	c.died = func(e *ExitError) {
		cancel(e)
		died(e)
	}
	if err := c.start(ctx); err != nil {
		// The first process that died is the reason for whatever failed then.
		var exit *ExitError
		if errors.As(context.Cause(ctx), &exit) {
			err = exit
		}
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// start brings up the services, then logic and the comets, then job: it begins to read
// when it knows a comet, and this way it knows all of them.
func (c *Cluster) start(ctx context.Context) error {
	services, err := c.run(RoleServices, RoleServices)
	if err != nil {
		return err
	}
	if err := c.waitReady(ctx, services); err != nil {
		return err
	}
	backing, err := services.backing(ctx)
	if err != nil {
		return err
	}
	if c.cfg.Redis == RedisServer {
		if backing.Redis, err = c.startRedis(ctx); err != nil {
			return err
		}
	}
	at, err := c.take(2)
	if err != nil {
		return err
	}
	c.Push, c.Kafka = at[0], backing.Kafka
	logic, err := c.run(RoleLogic, RoleLogic, c.flags(c.cfg.Logic, "-host=logic-1",
		"-httpServer.addr="+at[0], "-rpcServer.addr="+at[1],
		"-kafka.brokers="+backing.Kafka, "-redis.addr="+backing.Redis, "-discovery.nodes="+backing.Discovery)...)
	if err != nil {
		return err
	}
	waiting := []*Process{logic}
	secure, err := c.certificate()
	if err != nil {
		return err
	}
	for i := range c.cfg.Comets {
		at, err := c.take(3)
		if err != nil {
			return err
		}
		tls, err := c.takeTLS(secure)
		if err != nil {
			return err
		}
		c.reach(at[:2])
		c.TCP, c.WS, c.RPC = append(c.TCP, at[0]), append(c.WS, at[1]), append(c.RPC, at[2])
		name := fmt.Sprintf("comet-%d", i+1)
		comet, err := c.run(RoleComet, name, c.flags(c.cfg.Comet, slices.Concat([]string{"-host=" + name,
			"-tcp.bind=" + at[0], "-websocket.bind=" + at[1], "-rpcServer.addr=" + at[2],
			"-addrs=" + c.cfg.Advertise, "-discovery.nodes=" + backing.Discovery}, tls)...)...)
		if err != nil {
			return err
		}
		waiting = append(waiting, comet)
	}
	if err := c.waitReady(ctx, waiting...); err != nil {
		return err
	}
	// The services' broker answers a fetch that finds nothing only when its wait is over,
	// even if a record comes meanwhile: a long wait would be in every latency.
	job, err := c.run(RoleJob, RoleJob, c.flags(c.cfg.Job, "-host=job-1", "-kafka.options=fetch.wait.max.ms=2",
		"-kafka.brokers="+backing.Kafka, "-discovery.nodes="+backing.Discovery)...)
	if err != nil {
		return err
	}
	return c.waitReady(ctx, job)
}

// flags returns own with more behind it, so that a scenario's value wins.
func (c *Cluster) flags(more []string, own ...string) []string { return slices.Concat(own, more) }

// certificate makes the comets' certificate, and returns the flags that name it; none
// without Config.TLS.
func (c *Cluster) certificate() (flags []string, err error) {
	if !c.cfg.TLS {
		return nil, nil
	}
	if c.secrets, err = os.MkdirTemp("", "barrage-tls-"); err != nil {
		return nil, fmt.Errorf("make a folder for the comets' certificate: %w", err)
	}
	ip := net.ParseIP(c.cfg.Advertise)
	if ip == nil {
		return nil, fmt.Errorf("make the comets' certificate: %q is no IP address", c.cfg.Advertise)
	}
	cert, key, authority, err := makeCertificate(c.secrets, ip)
	if err != nil {
		return nil, err
	}
	c.Authority, c.Trusts = authority, x509.NewCertPool()
	c.Trusts.AppendCertsFromPEM(authority)
	return []string{"-tcp.tlsOpen=true", "-websocket.tlsOpen=true", "-websocket.certFile=" + cert, "-websocket.privateFile=" + key}, nil
}

// takeTLS returns the flags by which one more comet serves TLS.
func (c *Cluster) takeTLS(secure []string) ([]string, error) {
	if secure == nil {
		return nil, nil
	}
	at, err := c.take(2)
	if err != nil {
		return nil, err
	}
	c.reach(at)
	c.TCPTLS, c.WSS = append(c.TCPTLS, at[0]), append(c.WSS, at[1])
	return append(slices.Clone(secure), "-tcp.tlsBind="+at[0], "-websocket.tlsBind="+at[1]), nil
}

// reach puts addresses where clients reach them; their ports are free everywhere.
func (c *Cluster) reach(addrs []string) {
	for i, at := range addrs {
		_, port, _ := net.SplitHostPort(at) // Take made it
		addrs[i] = net.JoinHostPort(c.cfg.Advertise, port)
	}
}

// take returns n free addresses.
func (c *Cluster) take(n int) ([]string, error) {
	list := make([]string, n)
	for i := range list {
		at, err := c.ports.Take()
		if err != nil {
			return nil, err
		}
		list[i] = at
	}
	return list, nil
}

// run starts a process of a role with an admin port of its own.
func (c *Cluster) run(role, name string, flags ...string) (*Process, error) {
	at, err := c.ports.Take()
	if err != nil {
		return nil, err
	}
	p := &Process{Name: name, Role: role, Admin: at, client: newAdminClient()}
	args := append([]string{role, "-admin.addr=" + at}, flags...)
	var env []string
	var slack time.Duration
	if role == RoleComet {
		env, slack = c.cfg.CometEnv, c.cfg.CometTimerSlack
	}
	if err := c.spawner.start(p, c.cfg.Logs, c.cfg.Exe, args, env, slack); err != nil {
		return nil, err
	}
	c.own(p)
	return p, nil
}

// own takes a process that was started.
func (c *Cluster) own(p *Process) {
	c.mu.Lock()
	c.processes = append(c.processes, p)
	c.mu.Unlock()
	go p.wait(c.died)
}

// backing is where the services process listens.
type backing struct {
	Kafka     string `json:"kafka"`
	Redis     string `json:"redis"`
	Discovery string `json:"discovery"`
}

func (p *Process) backing(ctx context.Context) (backing, error) {
	var b backing
	body, err := p.Get(ctx, "/services")
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal(body, &b); err != nil || b.Kafka == "" || b.Redis == "" || b.Discovery == "" {
		return b, fmt.Errorf("%s: /services says %q, addresses of kafka, redis and discovery are wanted", p.Name, body)
	}
	return b, nil
}

// waitReady waits until each process says that it is ready.
func (c *Cluster) waitReady(ctx context.Context, list ...*Process) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Ready)
	defer cancel()
	for _, p := range list {
		last := errors.New("it was not asked yet")
		for {
			_, err := p.Get(ctx, "/readyz")
			if err == nil {
				break
			}
			if ctx.Err() == nil {
				last = err
			}
			select {
			case <-ctx.Done():
				if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
					return fmt.Errorf("wait for %s: %w", p.Name, context.Cause(ctx))
				}
				return fmt.Errorf("%s is not ready after %s: %w (its log is %s)", p.Name, c.cfg.Ready, last, p.log)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// Processes returns the processes in the order of their start.
func (c *Cluster) Processes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.processes)
}

// Role returns the processes of a role. One of a target may have several.
func (c *Cluster) Role(role string) []*Process {
	return slices.DeleteFunc(c.Processes(), func(p *Process) bool { return p.Role != role && !slices.Contains(p.roles, role) })
}

// Usage returns what each process has used so far, by name. One that has ended, or that
// doesn't say, is left out.
func (c *Cluster) Usage(ctx context.Context) map[string]Usage {
	ctx, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	all := map[string]Usage{}
	for _, p := range c.Processes() {
		if u, ok := p.usage(ctx); ok {
			all[p.Name] = u
		}
	}
	return all
}

// usageTimeout bounds how long the processes of a target may take to say what they use.
const usageTimeout = 2 * time.Second

func (p *Process) usage(ctx context.Context) (Usage, bool) {
	if p.Profiled() { // see ProfileCPU
		return Usage{}, false
	}
	if p.Remote() {
		m, err := p.Metrics(ctx)
		if err != nil {
			return Usage{}, false
		}
		return usageOf(m)
	}
	u, err := ReadUsage(p.PID())
	return u, err == nil
}

// Stop ends all processes, those that pushes reach first going first, and returns what
// went wrong. Only the first call does anything.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	list, stopped := c.processes, c.stopped
	c.stopped = true
	c.mu.Unlock()
	if stopped {
		return nil
	}
	for _, p := range list {
		p.stopping.Store(true)
	}
	var errs []error
	for _, role := range []string{RoleLogic, RoleJob, RoleComet, RoleServices, RoleRedis} {
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, p := range list {
			if p.Role != role {
				continue
			}
			wg.Go(func() {
				if err := p.stop(c.cfg.Grace); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	c.spawner.close()
	c.ports.Close()
	if c.secrets != "" {
		if err := os.RemoveAll(c.secrets); err != nil {
			errs = append(errs, fmt.Errorf("remove the comets' certificate: %w", err))
		}
	}
	return errors.Join(errs...)
}
