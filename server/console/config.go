package console

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// goim's ports on this machine, for what is neither configured nor known to the process.
const (
	defaultAPI           = "127.0.0.1:3111"
	defaultWebSocketPort = 3102
)

// Config says where the page is and what it talks to.
type Config struct {
	Addr      string   `toml:"addr" flag:"demo" doc:"Address (host:port) of the page on which a browser joins a room and pushes to it; empty turns it off."`
	API       string   `toml:"api" doc:"Address (host:port) of the push API that the page's requests go to; empty for this process's own, or 127.0.0.1:3111 where it has none."`
	WebSocket string   `toml:"websocket" doc:"Where browsers connect: host:port (without a host, the one the page was opened by) or a ws:// or wss:// URL; empty for this process's own, or for the nodes that the push API proposes."`
	Hosts     []string `toml:"hosts" doc:"Names by which browsers may open the page, besides IP addresses, localhost and this machine's own name."`
}

// DefaultConfig has the page turned off, and goim's ports for the rest.
func DefaultConfig() Config { return Config{} }

// Validate returns an error that names the first field that is wrong, and what is accepted.
func (c *Config) Validate() error {
	for _, f := range []struct{ name, addr string }{{"addr", c.Addr}, {"api", c.API}} {
		if f.addr == "" {
			continue
		}
		if err := checkAddr(f.addr); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if c.WebSocket != "" {
		if _, err := webSocketURL(c.WebSocket, "localhost"); err != nil {
			return fmt.Errorf("websocket: %w", err)
		}
	}
	for _, host := range c.Hosts {
		if !isHost(host) || strings.Contains(host, ":") {
			return fmt.Errorf("hosts: %q is no host name (give it without scheme and port)", host)
		}
	}
	return nil
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is no address host:port or :port", addr)
	}
	if host != "" && !isHost(host) {
		return fmt.Errorf("%q is no address host:port: its host has characters that no host has", addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("port %q is outside 0 to 65535", port)
	}
	return nil
}

// webSocketURL returns what a browser that opened the page by pageHost connects to: addr
// is host:port, :port or an address to listen on, or a URL already.
func webSocketURL(addr, pageHost string) (string, error) {
	if strings.Contains(addr, "://") {
		u, err := url.Parse(addr)
		if err != nil {
			return "", fmt.Errorf("%q: %w", addr, err)
		}
		if u.Scheme != "ws" && u.Scheme != "wss" {
			return "", fmt.Errorf("%q: the scheme is none of ws, wss", addr)
		}
		if !isHost(u.Hostname()) || u.User != nil {
			return "", fmt.Errorf("%q names no host", addr)
		}
		if strings.HasSuffix(u.Host, ":") {
			return "", fmt.Errorf("%q has a colon but no port", addr)
		}
		if u.Path == "" {
			u.Path = "/sub"
		}
		return u.String(), nil
	}
	if err := checkAddr(addr); err != nil {
		return "", err
	}
	return "ws://" + reachable(addr, pageHost) + "/sub", nil
}

// isHost says whether name has only what names and addresses of hosts are made of: what
// stands in a header of the page, too, must not end there what it stands in.
func isHost(name string) bool {
	return name != "" && strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:%", r))
	}) < 0
}

// reachable is addr with pageHost in the place of a host that means every address of this
// machine: a browser elsewhere reaches it by the name that it reached the page by.
func reachable(addr, pageHost string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = pageHost
	}
	return net.JoinHostPort(host, port)
}
