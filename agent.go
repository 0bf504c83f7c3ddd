package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"

	"barrage/harness"
	"barrage/harness/agent"
)

const agentUsage = `Run a part of a scenario's clients on this machine, for barrage bench on another one.

usage: barrage agent [flags]

An agent waits for a coordinator (barrage bench -agents), makes the clients that it names,
counts and times what arrives, corrects the times by the offset of its clock to the
coordinator's, and hands everything over in the end. It serves one coordinator at a time,
one run after the other, until it gets SIGINT or SIGTERM; when the coordinator goes away it
drops the clients. Agents and coordinator must be the same binary.

Without more an agent listens on loopback alone. For other machines it needs a certificate
(-cert, -key), and to know who may use it: by the coordinator's certificate (-ca), or by a
token that both have (-token-file, or the environment variable ` + tokenVariable + `). A token is
at least 16 characters, and never a flag, which others could read.

examples:
  barrage agent
  barrage agent -listen 10.0.0.7:3121 -cert agent.pem -key agent.key -ca ca.pem
  head -c 24 /dev/urandom | base64 > token
  barrage agent -listen 10.0.0.7:3121 -cert agent.pem -key agent.key -token-file token

and on the machine of the cluster, whose address for the clients is 10.0.0.1:
  barrage bench -agents 10.0.0.7:3121,10.0.0.8:3121 -advertise 10.0.0.1 -ca ca.pem -token-file token room-10k

exit status: 0 it was told to end; 1 it could not go on; 2 usage or environment

flags:
`

// tokenVariable is the environment variable with the token.
const tokenVariable = "BARRAGE_AGENT_TOKEN"

// securityFlags are how an agent and its coordinator know each other.
type securityFlags struct {
	security  agent.Security
	tokenFile string
}

// add adds the flags to a command's.
func (s *securityFlags) add(flags *flag.FlagSet, of, other string) {
	flags.StringVar(&s.security.Cert, "cert", "", "PEM `file` of "+of+" certificate")
	flags.StringVar(&s.security.Key, "key", "", "PEM `file` of the certificate's key")
	flags.StringVar(&s.security.CA, "ca", "", "PEM `file` of the authorities that sign "+other+" certificate")
	flags.StringVar(&s.tokenFile, "token-file", "", "`file` of the token that agents and coordinator have; its own is in "+tokenVariable+" otherwise")
	flags.BoolVar(&s.security.Insecure, "insecure", false, "let the token go without TLS, within this machine alone")
}

// read returns what the flags say.
func (s *securityFlags) read() (agent.Security, error) {
	token, err := readSecret("token", s.tokenFile, tokenVariable)
	if err != nil {
		return agent.Security{}, err
	}
	out := s.security
	out.Token = token
	return out, out.Check()
}

// readSecret returns what a file holds, or an environment variable where no file is named.
func readSecret(what, file, variable string) (string, error) {
	if file == "" {
		return os.Getenv(variable), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the %s: %w", what, err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("read the %s: %s is empty", what, file)
	}
	return secret, nil
}

// build names this binary: agents and coordinator must be of one.
func build() string {
	built := buildCommit()
	if built == "" {
		built = "unknown"
	}
	return fmt.Sprintf("barrage %s, commit %s", version, built)
}

// runAgent is the subcommand agent.
func runAgent(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newFlags("agent", agentUsage, stdout)
	listen := flags.String("listen", "127.0.0.1:3121", "`address` to listen on for a coordinator")
	from := flags.String("source", "", sourceHelp)
	var secure securityFlags
	secure.add(flags, "the agent's", "the coordinator's")
	rest, err := parseMixed(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitGood
	case err != nil:
		fmt.Fprintf(stderr, "barrage agent: %v\n", err)
		return exitUsage
	case len(rest) > 0:
		fmt.Fprintf(stderr, "barrage agent: unexpected argument %q; see barrage agent -h\n", rest[0])
		return exitUsage
	}
	err = serveAgent(ctx, *listen, *from, &secure, slog.New(slog.NewTextHandler(stderr, nil)))
	return (&process{name: "agent", stderr: stderr}).exit(err)
}

// sourceHelp says what the flag -source of bench and agent is.
const sourceHelp = "have the clients connect from these `addresses` of this machine in turn: IP,IP"

// parseSources reads the value of -source.
func parseSources(text string) (list []netip.Addr, err error) {
	if text == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(item))
		if err != nil {
			return nil, fmt.Errorf("-source %s: %q is no IP address; write it as -source 10.0.0.5,10.0.0.6", text, item)
		}
		list = append(list, addr)
	}
	return list, nil
}

// serveAgent serves coordinators until a signal comes.
func serveAgent(ctx context.Context, listen, from string, secure *securityFlags, log *slog.Logger) error {
	security, err := secure.read()
	if err != nil {
		return usageError{err}
	}
	sources, err := parseSources(from)
	if err != nil {
		return usageError{err}
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return usageError{fmt.Errorf("-listen %s: %w", listen, err)}
	}
	defer l.Close()
	s, err := agent.NewServer(harness.AgentServer(security, sources, build(), buildCommit(), log), l)
	if err != nil {
		return usageError{err}
	}
	// The first signal ends it in order; the next one kills.
	ctx, stop := signal.NotifyContext(ctx, endSignals()...)
	defer stop()
	context.AfterFunc(ctx, stop)
	log.Info("agent waits for a coordinator", "addr", l.Addr().String())
	defer log.Info("agent has ended")
	return s.Serve(ctx, l)
}
