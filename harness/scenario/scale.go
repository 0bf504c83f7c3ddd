package scenario

import (
	"fmt"
	"math"
)

// Scale returns the overrides that make s so many times as large: its clients, members and
// rooms, and the groups that pushes to keys and members go to. Rates and times stay, and one
// room stays one room.
func (s *Scenario) Scale(factor float64) ([]string, error) {
	if !(factor > 0) || factor > maxClients {
		return nil, fmt.Errorf("scale: %g is out of range; accepted: more than 0", factor)
	}
	var list []string
	set := func(path string, n int) {
		if scaled := max(1, int(math.Round(float64(n)*factor))); n > 1 && scaled != n {
			list = append(list, fmt.Sprintf("%s=%d", path, scaled))
		}
	}
	set("clients.count", s.Clients.Count)
	set("clients.members", s.Clients.Members)
	if s.Clients.Keys < s.Clients.Count {
		set("clients.keys", s.Clients.Keys)
	}
	set("clients.rooms.count", s.Clients.Rooms.Count)
	for i, p := range s.Pushes {
		set(fmt.Sprintf("pushes.%d.groups", i), p.Groups)
	}
	return list, nil
}
