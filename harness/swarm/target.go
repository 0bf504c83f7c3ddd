package swarm

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
)

// A target is one address of a comet, ready for connect(2).
type target struct {
	host   string // as given, for the Host header
	sa     unix.Sockaddr
	family int
}

// addresses are what the swarm's sockets are made from. They never change.
type addresses struct {
	targets [ledger.Kinds][]target
	locals  []local // empty: the kernel chooses
}

type local struct {
	sa     unix.Sockaddr
	family int
}

func resolve(cfg Config) (addresses, error) {
	var a addresses
	loopback := true
	for kind, list := range [ledger.Kinds][]string{ledger.TCP: cfg.Targets.TCP, ledger.WebSocket: cfg.Targets.WS} {
		for _, hostport := range list {
			resolved, err := net.ResolveTCPAddr("tcp", hostport)
			if err != nil {
				return a, fmt.Errorf("swarm: %s target %q: %w", ledger.Kind(kind), hostport, err)
			}
			addr := resolved.AddrPort()
			loopback = loopback && addr.Addr().Unmap().IsLoopback() && addr.Addr().Unmap().Is4()
			sa, family := sockaddr(addr)
			a.targets[kind] = append(a.targets[kind], target{host: hostport, sa: sa, family: family})
		}
	}
	locals := cfg.LocalAddrs
	if len(locals) == 0 && loopback && cfg.Clients > clientsPerLocalAddr {
		locals = loopbackAddrs((cfg.Clients + clientsPerLocalAddr - 1) / clientsPerLocalAddr)
	}
	for _, addr := range locals {
		sa, family := sockaddr(netip.AddrPortFrom(addr, 0))
		a.locals = append(a.locals, local{sa: sa, family: family})
	}
	return a, nil
}

// loopbackAddrs returns n addresses of 127.0.0.0/8, from 127.0.0.2 on.
func loopbackAddrs(n int) []netip.Addr {
	list := make([]netip.Addr, n)
	for i := range list {
		list[i] = netip.AddrFrom4([4]byte{127, byte(i / 200 / 256), byte(i / 200), byte(2 + i%200)})
	}
	return list
}

func sockaddr(addr netip.AddrPort) (unix.Sockaddr, int) {
	ip := addr.Addr().Unmap()
	if ip.Is4() {
		return &unix.SockaddrInet4{Addr: ip.As4(), Port: int(addr.Port())}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Addr: ip.As16(), Port: int(addr.Port())}, unix.AF_INET6
}

// dial starts a connection to t from l, or from where the kernel likes when l is nil. done
// is false while the connection is under way.
func dial(t *target, l *local) (fd int, done bool, err error) {
	fd, err = unix.Socket(t.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, false, fmt.Errorf("make a socket: %w", err)
	}
	if l != nil && l.family == t.family {
		// The port is chosen by connect, for this destination alone: so ports are not used
		// up, and choosing one stays fast.
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err == nil {
			err = unix.Bind(fd, l.sa)
		}
		if err != nil {
			_ = unix.Close(fd)
			return -1, false, fmt.Errorf("bind to a source address: %w", err)
		}
	}
	switch err := unix.Connect(fd, t.sa); err {
	case nil:
		return fd, true, nil
	case unix.EINPROGRESS, unix.EINTR:
		return fd, false, nil
	default:
		_ = unix.Close(fd)
		return -1, false, fmt.Errorf("connect to %s: %w", t.host, err)
	}
}
