package scenario

import (
	"fmt"
	"math"
	"slices"
	"strings"
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
		if to := scaled(n, factor); n > 1 && to != n {
			list = append(list, fmt.Sprintf("%s=%d", path, to))
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
		if rooms := s.Clients.Rooms.Count; len(p.Rooms) > 0 && len(p.Rooms) < rooms && scaled(rooms, factor) != rooms {
			list = append(list, fmt.Sprintf("pushes.%d.rooms=[%s]", i, strings.Join(ranges(scaledRooms(p.Rooms, rooms, factor)), ", ")))
		}
	}
	return list, nil
}

func scaled(n int, factor float64) int { return max(1, int(math.Round(float64(n)*factor))) }

// scaledRooms returns those of the scaled number of rooms that stand where the listed ones
// do of all of them, in order.
func scaledRooms(listed []int, rooms int, factor float64) []int {
	count := scaled(rooms, factor)
	var out []int
	for _, room := range listed {
		out = append(out, min(int(float64(room)*factor), count-1))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ranges writes rooms, which are in order and counted from 0, as a push's list of them.
func ranges(rooms []int) (list []string) {
	for from := 0; from < len(rooms); {
		to := from
		for to+1 < len(rooms) && rooms[to+1] == rooms[to]+1 {
			to++
		}
		text := fmt.Sprint(rooms[from] + 1)
		if to > from {
			text += fmt.Sprint("-", rooms[to]+1)
		}
		list = append(list, text)
		from = to + 1
	}
	return list
}
