package nodes

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Regions knows which region an address is in.
type Regions struct {
	networks map[netip.Prefix]string
	lengths  []int // of the networks' prefixes, longest first
}

// NewRegions reads the section regions of logic's file: for each region a list of networks
// (10.1.0.0/16, 2001:db8::/32) or single addresses whose clients are in it. goim's file has
// provinces there, but nothing in goim finds the province of an address: such names are
// accepted and mean nothing. What CheckRegions refuses means nothing either.
func NewRegions(section map[string][]string, log *slog.Logger) *Regions {
	r := &Regions{networks: map[netip.Prefix]string{}}
	names := 0
	for _, region := range slices.Sorted(maps.Keys(section)) {
		for _, entry := range section[region] {
			network, ok := parseNetwork(entry)
			if !ok {
				names++
				continue
			}
			if r.networks[network] == "" {
				r.networks[network] = region
			}
			if !slices.Contains(r.lengths, network.Bits()) {
				r.lengths = append(r.lengths, network.Bits())
			}
		}
	}
	if names > 0 {
		log.Warn("names in section regions mean nothing without a lookup; networks like 10.1.0.0/16 tell a client's region", "names", names)
	}
	slices.Sort(r.lengths)
	slices.Reverse(r.lengths)
	return r
}

// CheckRegions returns an error that names a region and what is wrong in it: a network that
// can't be read, or one that another region has too.
func CheckRegions(section map[string][]string) error {
	of := map[netip.Prefix]string{}
	for _, region := range slices.Sorted(maps.Keys(section)) {
		for _, entry := range section[region] {
			network, ok := parseNetwork(entry)
			if !ok {
				if strings.Contains(entry, "/") {
					return fmt.Errorf("regions.%s: %q is no network; networks look like 10.1.0.0/16 or 2001:db8::/32", region, entry)
				}
				continue
			}
			if other, taken := of[network]; taken && other != region {
				return fmt.Errorf("regions.%s: %q is a network of region %s too", region, entry, other)
			}
			of[network] = region
		}
	}
	return nil
}

// parseNetwork reads a network or an address. A form of IPv6 that stands for IPv4 is IPv4.
func parseNetwork(entry string) (network netip.Prefix, ok bool) {
	network, err := netip.ParsePrefix(entry)
	if err != nil {
		addr, err := netip.ParseAddr(entry)
		if err != nil {
			return network, false
		}
		addr = addr.WithZone("")
		network = netip.PrefixFrom(addr, addr.BitLen())
	}
	if addr := network.Addr(); addr.Is4In6() && network.Bits() >= 96 {
		network = netip.PrefixFrom(addr.Unmap(), network.Bits()-96)
	}
	return network.Masked(), true
}

// Of returns the region of an address, by the smallest network that has it; "" where it is
// unknown.
func (r *Regions) Of(address string) string {
	if len(r.networks) == 0 {
		return ""
	}
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	addr = addr.Unmap().WithZone("")
	for _, bits := range r.lengths {
		network, err := addr.Prefix(bits)
		if err != nil {
			continue // longer than an IPv4 address
		}
		if region := r.networks[network]; region != "" {
			return region
		}
	}
	return ""
}
