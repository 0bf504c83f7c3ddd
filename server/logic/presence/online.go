package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/go-faster/city"
	"github.com/redis/go-redis/v9"
)

const (
	// onlineFields is how many fields a comet's room counts are spread over.
	onlineFields = 64

	// MaxReportAge is the age from which on goim doesn't count a comet's room counts.
	MaxReportAge = 5 * time.Minute
)

// A report is the value of a field of ol_{server}: the counts of the rooms whose hash falls
// on that field.
type report struct {
	Server    string           `json:"server"`
	RoomCount map[string]int32 `json:"room_count"`
	Updated   int64            `json:"updated"` // unix seconds
}

// Report replaces a comet's room counts, as of now.
func (s *Store) Report(ctx context.Context, server string, rooms map[string]int32, now time.Time) error {
	var parts [onlineFields]map[string]int32
	for room, count := range rooms {
		field := onlineField(room)
		if parts[field] == nil {
			parts[field] = make(map[string]int32, len(rooms)/onlineFields+1)
		}
		parts[field][room] = count
	}
	var set []any
	var unset []string // else the last count of a room that emptied would stay for ever
	for field, part := range parts {
		name := strconv.Itoa(field)
		if part == nil {
			unset = append(unset, name)
			continue
		}
		value, err := json.Marshal(report{Server: server, RoomCount: part, Updated: now.Unix()})
		if err != nil {
			return fmt.Errorf("encode room counts of comet %q: %w", server, err)
		}
		set = append(set, name, value)
	}
	key := onlineKey(server)
	pipe := s.client.TxPipeline() // readers never see a room in neither place
	if len(set) > 0 {
		pipe.HSet(ctx, key, set...)
	}
	if len(unset) > 0 {
		pipe.HDel(ctx, key, unset...)
	}
	pipe.PExpire(ctx, key, s.expire)
	if err := run(ctx, pipe); err != nil {
		return s.failed(opReport, fmt.Errorf("write room counts of comet %q to redis: %w", server, err))
	}
	return nil
}

// Sum returns the sessions in each room over the given comets, without reports that are
// from before oldest.
func (s *Store) Sum(ctx context.Context, servers []string, oldest time.Time) (map[string]int32, error) {
	sum := make(map[string]int32)
	if len(servers) == 0 {
		return sum, nil
	}
	pipe := s.client.Pipeline()
	found := make([]*redis.MapStringStringCmd, len(servers))
	for i, server := range servers {
		found[i] = pipe.HGetAll(ctx, onlineKey(server))
	}
	if err := run(ctx, pipe); err != nil {
		return nil, s.failed(opSum, fmt.Errorf("read room counts of %d comets from redis: %w", len(servers), err))
	}
	for i, server := range servers {
		for field, value := range found[i].Val() {
			var part report
			if err := json.Unmarshal([]byte(value), &part); err != nil {
				s.errors[opSum].Inc()
				s.log.Warn("skipped room counts that can't be read", "comet", server, "field", field, "err", err)
				continue
			}
			if part.Updated < oldest.Unix() {
				continue
			}
			for room, count := range part.RoomCount {
				sum[room] += count
			}
		}
	}
	return sum, nil
}

// onlineField returns the field of ol_{server} that holds a room's count. goim hashes with
// the same function (CityHash32).
func onlineField(room string) int {
	return int(city.Hash32([]byte(room)) % onlineFields)
}
