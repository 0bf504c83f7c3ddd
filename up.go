package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"barrage/server/admin"
	"barrage/server/backing"
	"barrage/server/comet"
	"barrage/server/config"
	"barrage/server/console"
	"barrage/server/job"
	"barrage/server/logic"
	"barrage/server/wire"
)

// upConfig is every role's configuration in a section of its own.
type upConfig struct {
	Comet    comet.Config   `toml:"comet"`
	Logic    logic.Config   `toml:"logic"`
	Job      job.Config     `toml:"job"`
	Services servicesConfig `toml:"services"`
	Console  console.Config `toml:"console"`
}

// defaultUpConfig has goim's ports, all on loopback: the push API asks nobody who he is.
func defaultUpConfig() upConfig {
	cfg := upConfig{
		Comet: comet.DefaultConfig(), Logic: logic.DefaultConfig(), Job: job.DefaultConfig(),
		Services: defaultServicesConfig(), Console: console.DefaultConfig(),
	}
	cfg.Console.Addr = "127.0.0.1:1999"
	cfg.Comet.Env.Addrs, cfg.Logic.Node.DefaultDomain = []string{"127.0.0.1"}, "127.0.0.1"
	cfg.Comet.TCP.Bind = []string{"127.0.0.1:3101"}
	cfg.Comet.WebSocket.Bind = []string{"127.0.0.1:3102"}
	cfg.Comet.RPCServer.Addr = "127.0.0.1:3109"
	cfg.Logic.HTTPServer.Addr = "127.0.0.1:3111"
	cfg.Logic.RPCServer.Addr = "127.0.0.1:3119"
	cfg.Services.Backing.Discovery.Addr = "127.0.0.1:7171"
	return cfg
}

// useServices points the roles to the services of this process.
func (c *upConfig) useServices(s *backing.Services) {
	nodes := []string{s.DiscoveryAddr()}
	brokers := strings.Split(s.KafkaBrokers(), ",")
	topic := c.Services.Backing.Kafka.Topic
	c.Comet.Discovery.Nodes, c.Logic.Discovery.Nodes, c.Job.Discovery.Nodes = nodes, nodes, nodes
	c.Logic.Kafka.Brokers, c.Logic.Kafka.Topic = brokers, topic
	c.Job.Kafka.Brokers, c.Job.Kafka.Topic = brokers, topic
	c.Job.Kafka.Options = append(backing.ConsumerOptions(), c.Job.Kafka.Options...)
	c.Logic.Redis.Addr = s.RedisAddr()
}

// tellPorts has logic tell clients who ask for nodes of this process's ports, whichever
// they are.
func (c *upConfig) tellPorts(clients *comet.Server) {
	node := &c.Logic.Node
	for _, x := range []struct {
		told  *int
		bound []net.Addr
	}{{&node.TCPPort, clients.TCPAddrs()}, {&node.WSPort, clients.WebSocketAddrs()}, {&node.WSSPort, clients.WebSocketTLSAddrs()}} {
		if len(x.bound) > 0 {
			*x.told = x.bound[0].(*net.TCPAddr).Port
		}
	}
}

func runUp(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return serve(ctx, "up", defaultUpConfig(), nil, args, stdout, stderr, up)
}

func up(ctx context.Context, p *process, cfg upConfig) (err error) {
	// Each part's own page, as in a cluster.
	page := p.admin(cfg.Services.Admin, "services")
	if err := page.Listen(); err != nil {
		return usageError{fmt.Errorf("services.%w", err)}
	}
	services, err := startServices(ctx, p, cfg.Services.Backing, page)
	if err != nil {
		return usageError{fmt.Errorf("services.%w", err)}
	}
	cfg.useServices(services)
	cometRole, jobRole, logicRole, err := newRoles(p, cfg)
	if err != nil {
		return errors.Join(usageError{err}, services.Close())
	}
	demo, err := newUpPage(p, cfg.Console, cometRole, logicRole)
	if err != nil {
		return errors.Join(usageError{err}, services.Close())
	}
	onReload(p, func(cfg upConfig) ([]string, error) {
		cfg.useServices(services)
		clients := cometRole.server.(*comet.Server)
		cfg.tellPorts(clients)
		return reloadBoth(clients, logicRole.server.(*logic.Server), cfg)
	})
	parts := []part{
		{"announcement", func(ctx context.Context) error {
			if waitReady(ctx, p, cometRole, jobRole, logicRole) == nil {
				announce(p.stdout, services, page, demo, cometRole, jobRole, logicRole)
			}
			<-ctx.Done()
			return nil
		}},
		cometRole.part(), jobRole.part(), logicRole.part(),
		servicesPart(services),
		cometRole.adminPart(), jobRole.adminPart(), logicRole.adminPart(),
	}
	return runParts(ctx, append(parts, part{"demo page", demo.Run}, part{"services admin page", page.Run})...)
}

// newUpPage makes the demo page of this process's comet and logic, and binds its port.
func newUpPage(p *process, cfg console.Config, cometRole, logicRole *role) (*console.Server, error) {
	c, l := cometRole.server.(*comet.Server), logicRole.server.(*logic.Server)
	page, err := newPage(p, cfg, logicRole.admin, console.Deps{
		API:       func() string { return l.HTTPAddr().String() },
		WebSocket: func() string { return firstAddr(c.WebSocketAddrs()) },
	})
	if err != nil {
		return nil, err
	}
	if err := page.Listen(); err != nil {
		return nil, fmt.Errorf("console.addr: %w", err)
	}
	return page, nil
}

// pageLine names the demo page, if there is one.
func pageLine(demo *console.Server) string {
	if demo.Addr() == nil {
		return ""
	}
	return fmt.Sprintf("  page       http://%s (join a room in a browser, and push to it)\n", demo.Addr())
}

// reloadBoth has both roles take over what they can; job has nothing that changes.
func reloadBoth(c *comet.Server, l *logic.Server, cfg upConfig) (changed []string, err error) {
	// All of it or nothing, as far as it can be known before.
	for section, role := range map[string]interface{ Validate() error }{"comet": &cfg.Comet, "logic": &cfg.Logic, "job": &cfg.Job} {
		if err := role.Validate(); err != nil {
			return nil, fmt.Errorf("%s: %w", section, err)
		}
	}
	var later []string
	take := func(section string, paths []string, err error) error {
		for _, path := range paths {
			changed = append(changed, section+"."+path)
		}
		var restart *config.RestartError
		if !errors.As(err, &restart) {
			return err
		}
		for _, path := range restart.Paths {
			later = append(later, section+"."+path)
		}
		return nil
	}
	paths, err := c.Reload(cfg.Comet)
	if err := take("comet", paths, err); err != nil {
		return changed, err
	}
	paths, err = l.Reload(cfg.Logic)
	if err := take("logic", paths, err); err != nil {
		return changed, err
	}
	if len(later) > 0 {
		return changed, &config.RestartError{Paths: later}
	}
	return changed, nil
}

// newRoles makes all roles and binds their ports.
func newRoles(p *process, cfg upConfig) (cometRole, jobRole, logicRole *role, err error) {
	if cometRole, err = newComet(p, cfg.Comet); err != nil {
		return nil, nil, nil, fmt.Errorf("comet: %w", err)
	}
	if err := cometRole.listen(); err != nil {
		return nil, nil, nil, fmt.Errorf("comet.%w", err)
	}
	cfg.tellPorts(cometRole.server.(*comet.Server))
	if jobRole, err = newJob(p, cfg.Job); err != nil {
		return nil, nil, nil, fmt.Errorf("job: %w", err)
	}
	if logicRole, err = newLogic(p, cfg.Logic); err != nil {
		return nil, nil, nil, fmt.Errorf("logic: %w", err)
	}
	for _, r := range []*role{jobRole, logicRole} {
		if err := r.listen(); err != nil {
			return nil, nil, nil, fmt.Errorf("%s.%w", r.name, err)
		}
	}
	return cometRole, jobRole, logicRole, nil
}

// waitReady returns when every role is ready, or with an error when ctx ends first. Every
// ten seconds it says what is missing.
func waitReady(ctx context.Context, p *process, roles ...*role) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	nextWord := time.Now().Add(10 * time.Second)
	for {
		var missing []error
		for _, r := range roles {
			if err := r.server.Ready(); err != nil {
				missing = append(missing, fmt.Errorf("%s: %w", r.name, err))
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(nextWord) {
			p.log.Warn("not ready yet", "err", errors.Join(missing...))
			nextWord = time.Now().Add(10 * time.Second)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// announce says where everything is and how to try it.
func announce(w io.Writer, services *backing.Services, page *admin.Server, demo *console.Server, cometRole, jobRole, logicRole *role) {
	clients := cometRole.server.(*comet.Server)
	tcp, ws := firstAddr(clients.TCPAddrs()), firstAddr(clients.WebSocketAddrs())
	api := logicRole.server.(*logic.Server).HTTPAddr().String()
	fmt.Fprintf(w, `
Barrage is up: everything in this process, and in memory only. Ctrl-C ends it.

%s  push API   http://%s/goim/push/room
  TCP        %s
  WebSocket  ws://%s/sub
%s  admin      http://%s (comet), %s (job), %s (logic), %s (services)
  services   discovery %s, redis %s, kafka %s

Join room live://1000 and see what arrives (the text behind each frame's 16 bytes):

  %s

Push to that room, from another terminal:

  curl -d 'hello' 'http://%s/goim/push/room?operation=1000&type=live&room=1000'

`, pageLine(demo), api, tcp, ws, overTLS(clients), addrOf(cometRole.admin), addrOf(jobRole.admin), addrOf(logicRole.admin), addrOf(page),
		services.DiscoveryAddr(), services.RedisAddr(), services.KafkaBrokers(), joinCommand(tcp, "live://1000"), api)
}

// overTLS names the addresses for clients over TLS, if there are any.
func overTLS(c *comet.Server) string {
	text := ""
	if list := c.TCPTLSAddrs(); len(list) > 0 {
		text += fmt.Sprintf("  TCP, TLS   %s\n", list[0])
	}
	if list := c.WebSocketTLSAddrs(); len(list) > 0 {
		text += fmt.Sprintf("  WSS        wss://%s/sub\n", list[0])
	}
	return text
}

func firstAddr(addrs []net.Addr) string {
	if len(addrs) == 0 {
		return "off"
	}
	return addrs[0].String()
}

// joinCommand is a line for bash that connects to a comet's TCP address, joins a room and
// shows what comes, with what every Debian has.
func joinCommand(addr, room string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "(TCP is off)"
	}
	body := fmt.Sprintf(`{"room_id":"%s"}`, room)
	header := wire.AppendHeader(nil, wire.Version, wire.OpAuth, 1, len(body))
	var quoted strings.Builder
	for _, b := range header {
		fmt.Fprintf(&quoted, `\%03o`, b)
	}
	return fmt.Sprintf(`bash -c 'exec 3<>/dev/tcp/%s/%s; printf "%s%s" >&3; cat -v <&3'`,
		host, port, quoted.String(), strings.ReplaceAll(body, `"`, `\"`))
}
