package swarm

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"barrage/harness/ledger"
)

// A target is one address of a comet.
type target struct {
	host string      // as given, for the Host header
	tls  *tls.Config // of a kind inside TLS
	endpoint
}

// An endpoint is an address ready for a system call. unix encodes it within itself on
// each use, so each thread needs its own.
type endpoint struct {
	sa     unix.Sockaddr
	family int
}

// addresses are what a thread's sockets are made from.
type addresses struct {
	targets [ledger.Kinds][]target
	locals  []endpoint // empty: the kernel chooses
}

// clone returns a copy for another thread.
func (a addresses) clone() addresses {
	var c addresses
	for kind, list := range a.targets {
		for _, t := range list {
			c.targets[kind] = append(c.targets[kind], target{host: t.host, tls: t.tls, endpoint: t.endpoint.clone()})
		}
	}
	for _, l := range a.locals {
		c.locals = append(c.locals, l.clone())
	}
	return c
}

func (e endpoint) clone() endpoint {
	switch sa := e.sa.(type) {
	case *unix.SockaddrInet4:
		e.sa = &unix.SockaddrInet4{Addr: sa.Addr, Port: sa.Port}
	case *unix.SockaddrInet6:
		e.sa = &unix.SockaddrInet6{Addr: sa.Addr, Port: sa.Port, ZoneId: sa.ZoneId}
	}
	return e
}

func resolve(cfg Config) (addresses, error) {
	var a addresses
	loopback := true
	for kind, list := range [ledger.Kinds][]string{
		ledger.TCP: cfg.Targets.TCP, ledger.WebSocket: cfg.Targets.WS, ledger.TCPTLS: cfg.Targets.TCPTLS, ledger.WSS: cfg.Targets.WSS,
	} {
		for _, hostport := range list {
			resolved, err := net.ResolveTCPAddr("tcp", hostport)
			if err != nil {
				return a, fmt.Errorf("swarm: %s target %q: %w", ledger.Kind(kind), hostport, err)
			}
			addr := resolved.AddrPort()
			loopback = loopback && addr.Addr().Unmap().IsLoopback() && addr.Addr().Unmap().Is4()
			to := target{host: hostport, endpoint: newEndpoint(addr)}
			if ledger.Kind(kind).TLS() {
				to.tls = cfg.tlsFor(hostport)
			}
			a.targets[kind] = append(a.targets[kind], to)
		}
	}
	locals := cfg.LocalAddrs
	if len(locals) == 0 && loopback && cfg.Clients > clientsPerLocalAddr {
		locals = loopbackAddrs((cfg.Clients + clientsPerLocalAddr - 1) / clientsPerLocalAddr)
	}
	for _, addr := range locals {
		a.locals = append(a.locals, newEndpoint(netip.AddrPortFrom(addr, 0)))
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

func newEndpoint(addr netip.AddrPort) endpoint {
	ip := addr.Addr().Unmap()
	if ip.Is4() {
		return endpoint{&unix.SockaddrInet4{Addr: ip.As4(), Port: int(addr.Port())}, unix.AF_INET}
	}
	return endpoint{&unix.SockaddrInet6{Addr: ip.As16(), Port: int(addr.Port())}, unix.AF_INET6}
}

// dial starts a connection to t from l, or from where the kernel likes when l is nil. done
// is false while the connection is under way. receive is SO_RCVBUF, or 0.
func dial(t *target, l *endpoint, receive int) (fd int, done bool, err error) {
	fd, err = unix.Socket(t.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, false, fmt.Errorf("make a socket: %w", err)
	}
	if receive > 0 {
		// Before connect: the window's scale is chosen there.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receive); err != nil {
			_ = unix.Close(fd)
			return -1, false, fmt.Errorf("set the receive buffer: %w", err)
		}
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
