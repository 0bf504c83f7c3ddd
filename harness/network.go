package harness

import (
	"errors"
	"fmt"

	"barrage/harness/netns"
	"barrage/harness/report"
	"barrage/harness/scenario"
)

// fewForOwnNetwork is how many clients do as well in the machine's network: with both ends
// of 100,000 connections a chain of its table has less than one socket on most machines.
const fewForOwnNetwork = 100_000

// EnterNetwork starts the program exe anew, with this process's arguments, in a network of
// its own where the scenario asks for that, or has so many clients that it pays and this
// process may. It returns nil where the run is to go on in this network, and an
// EnvironmentError where it can't. outward says that it needs the machine's network for
// something that the scenario doesn't name.
func EnterNetwork(s *scenario.Scenario, exe string, outward bool) error {
	outward = outward || s.Metrics.Pushgateway != "" || s.Metrics.RemoteWrite != ""
	wanted := s.Cluster.Network == report.OwnNetwork
	switch {
	case s.Cluster.Network == report.HostNetwork || netns.Inside():
		return nil
	case wanted && outward:
		return &EnvironmentError{Problems: []string{
			"cluster.network is own, and from there neither a target nor agents, metrics that others read or are sent, or modules for another version's build can be reached: set it to host or auto",
		}}
	case !wanted && (outward || s.Clients.Count < fewForOwnNetwork):
		return nil
	}
	const ends = 2
	err := netns.Enter(exe, ends*s.Clients.Count)
	if !wanted && errors.Is(err, netns.ErrNotPermitted) {
		return nil
	}
	return &EnvironmentError{Problems: []string{fmt.Sprintf("cluster.network: %v", err)}}
}
