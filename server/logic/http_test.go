package logic

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "barrage/server/api/logic"
)

const success = `{"code":0,"message":""}`

// Answers to the byte: goim's pushers parse them.
func TestAnswers(t *testing.T) {
	c := startCluster(t, nil)
	c.connect(t, "comet-1", `{"mid":7,"key":"known"}`)
	c.comet.RenewOnline(t.Context(), &pb.OnlineReq{Server: "comet-1", RoomCount: map[string]int32{"live://1000": 100, "live://9": 3, "video://1": 7}})
	c.comet.RenewOnline(t.Context(), &pb.OnlineReq{Server: "comet-2", RoomCount: map[string]int32{"live://1000": 50, "live://8": 3}})
	c.instances <- comets("comet-1", "comet-2")
	eventually(t, "online counts", func() error {
		return wantAnswer(c.get(t, "/goim/online/room?type=live&rooms=1000"), `{"code":0,"message":"","data":{"1000":150}}`)
	})
	for _, test := range []struct{ name, method, path, want string }{
		{"room", "POST", "/goim/push/room?operation=1000&type=live&room=1000", success},
		{"room without operation", "POST", "/goim/push/room?type=live&room=1000", `{"code":-400,"message":"operation: missing"}`},
		{"room with operation 0", "POST", "/goim/push/room?operation=0&type=live&room=1000", `{"code":-400,"message":"operation: must not be 0"}`},
		{"room with a malformed operation", "POST", "/goim/push/room?operation=x1&type=live&room=1000", `{"code":-400,"message":"operation: \"x1\" is not a whole number of 32 bits"}`},
		{"room with an operation out of range", "POST", "/goim/push/room?operation=2147483648&type=live&room=1000", `{"code":-400,"message":"operation: \"2147483648\" is not a whole number of 32 bits"}`},
		{"room without type", "POST", "/goim/push/room?operation=1000&room=1000", `{"code":-400,"message":"type: missing"}`},
		{"room without room", "POST", "/goim/push/room?operation=1000&type=live&room=", `{"code":-400,"message":"room: missing"}`},
		{"all", "POST", "/goim/push/all?operation=1000", success},
		{"all with speed", "POST", "/goim/push/all?operation=1000&speed=100", success},
		{"all without operation", "POST", "/goim/push/all", `{"code":-400,"message":"operation: missing"}`},
		{"all with a malformed speed", "POST", "/goim/push/all?operation=1000&speed=fast", `{"code":-400,"message":"speed: \"fast\" is not a whole number of 32 bits"}`},
		{"all with a negative speed", "POST", "/goim/push/all?operation=1000&speed=-1", `{"code":-400,"message":"speed: -1 is negative"}`},
		{"keys", "POST", "/goim/push/keys?operation=1000&keys=known&keys=unknown", success},
		{"keys without operation", "POST", "/goim/push/keys?keys=known", success},
		{"keys nobody has", "POST", "/goim/push/keys?operation=1000&keys=unknown&keys=", success},
		{"keys without keys", "POST", "/goim/push/keys?operation=1000", `{"code":-400,"message":"keys: missing"}`},
		{"mids", "POST", "/goim/push/mids?operation=1000&mids=7&mids=8", success},
		{"mids nobody has", "POST", "/goim/push/mids?operation=1000&mids=8&mids=0", success},
		{"mids without mids", "POST", "/goim/push/mids?operation=1000", success},
		{"mids with a malformed one", "POST", "/goim/push/mids?operation=1000&mids=7&mids=seven", `{"code":-400,"message":"mids: \"seven\" is not a whole number of 64 bits"}`},
		{"top", "GET", "/goim/online/top?type=live&limit=2", `{"code":0,"message":"","data":[{"room_id":"1000","count":150},{"room_id":"8","count":3}]}`},
		{"top by a prefix", "GET", "/goim/online/top?type=vi&limit=10", `{"code":0,"message":"","data":[{"room_id":"1","count":7}]}`},
		{"top without rooms", "GET", "/goim/online/top?type=none&limit=10", `{"code":0,"message":"","data":[]}`},
		{"top without limit", "GET", "/goim/online/top?type=live", `{"code":-400,"message":"limit: missing"}`},
		{"top with a negative limit", "GET", "/goim/online/top?type=live&limit=-1", `{"code":-400,"message":"limit: -1 is negative"}`},
		{"top without type", "GET", "/goim/online/top?limit=1", `{"code":-400,"message":"type: missing"}`},
		{"rooms", "GET", "/goim/online/room?type=live&rooms=1000&rooms=9&rooms=unknown", `{"code":0,"message":"","data":{"1000":150,"9":3,"unknown":0}}`},
		{"rooms without rooms", "GET", "/goim/online/room?type=live", `{"code":-400,"message":"rooms: missing"}`},
		{"rooms without type", "GET", "/goim/online/room?rooms=1", `{"code":-400,"message":"type: missing"}`},
		{"a key named twice", "POST", "/goim/push/keys?operation=1000&keys=known&keys=known", success},
		{"form encoding", "POST", "/goim/push/room?operation=1000&type=li%76e&room=a+b%26c", success},
		{"form encoding of a list", "GET", "/goim/online/room?type=li%76e&rooms=1000&rooms=%39&rooms=a+b", `{"code":0,"message":"","data":{"1000":150,"9":3,"a b":0}}`},
		{"a room with a question mark", "GET", "/goim/online/room?type=live&rooms=9?&rooms=9%3F", `{"code":0,"message":"","data":{"9?":0}}`},
		{"parameters that nobody knows", "GET", "/goim/online/room?x=1&type=live&rooms=9&&=", `{"code":0,"message":"","data":{"9":3}}`},
		{"a comma is part of a value", "GET", "/goim/online/room?type=live&rooms=9,1000", `{"code":0,"message":"","data":{"9,1000":0}}`},
		{"the first of several", "GET", "/goim/online/top?type=live&type=video&limit=1&limit=9", `{"code":0,"message":"","data":[{"room_id":"1000","count":150}]}`},
		{"nodes for a browser", "GET", "/goim/nodes/weighted?platform=web", `{"code":0,"message":"","data":{"domain":"conn.goim.io","tcp_port":3101,"ws_port":3102,"wss_port":3103,"heartbeat":240,"nodes":["comet-1.goim.io","comet-2.goim.io"],"backoff":{"max_delay":300,"base_delay":3,"factor":1.8,"jitter":0.3},"heartbeat_max":2}}`},
		{"nodes without addresses", "GET", "/goim/nodes/weighted", `{"code":0,"message":"","data":{"domain":"conn.goim.io","tcp_port":3101,"ws_port":3102,"wss_port":3103,"heartbeat":240,"nodes":["conn.goim.io"],"backoff":{"max_delay":300,"base_delay":3,"factor":1.8,"jitter":0.3},"heartbeat_max":2}}`},
		{"instances", "GET", "/goim/nodes/instances", `{"code":0,"message":"","data":[` +
			`{"region":"","zone":"","env":"","appid":"goim.comet","hostname":"comet-1","addrs":null,"version":"","latest_timestamp":0,"metadata":{"conn_count":"3","ip_count":"2","offline":"false","weight":"10"}},` +
			`{"region":"","zone":"","env":"","appid":"goim.comet","hostname":"comet-2","addrs":null,"version":"","latest_timestamp":0,"metadata":{"conn_count":"3","ip_count":"2","offline":"false","weight":"10"}}]}`},
		{"total", "GET", "/goim/online/total", `{"code":0,"message":"","data":{"conn_count":6,"ip_count":4}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got string
			if test.method == http.MethodPost {
				got = c.post(t, test.path, "hello")
			} else {
				got = c.get(t, test.path)
			}
			if got != test.want {
				t.Errorf("%s %s\n got %s\nwant %s", test.method, test.path, got, test.want)
			}
		})
	}
}

// Records to the field: goim's job reads them.
func TestRecords(t *testing.T) {
	for _, test := range []struct {
		name, path string
		want       []record
	}{
		{"room", "/goim/push/room" + params("operation", "1000", "type", "live", "room", "房间 1"), []record{
			{key: "live://房间 1", push: &pb.PushMsg{Type: pb.PushMsg_ROOM, Operation: 1000, Room: "live://房间 1"}},
		}},
		{"all", "/goim/push/all?operation=1001&speed=64", []record{
			{key: "1001", push: &pb.PushMsg{Type: pb.PushMsg_BROADCAST, Operation: 1001, Speed: 64}},
		}},
		{"keys, one record a comet, the first key leading", "/goim/push/keys?operation=5&keys=c&keys=gone&keys=b&keys=a", []record{
			{key: "b", push: &pb.PushMsg{Operation: 5, Server: "comet-2", Keys: []string{"b"}}},
			{key: "c", push: &pb.PushMsg{Operation: 5, Server: "comet-1", Keys: []string{"c", "a"}}},
		}},
		{"mids, all sessions of each", "/goim/push/mids?operation=6&mids=2&mids=1&mids=99", []record{
			{key: "a", push: &pb.PushMsg{Operation: 6, Server: "comet-1", Keys: []string{"a", "c"}}},
			{key: "b", push: &pb.PushMsg{Operation: 6, Server: "comet-2", Keys: []string{"b"}}},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, nil)
			c.connect(t, "comet-1", `{"mid":1,"key":"a"}`)
			c.connect(t, "comet-2", `{"mid":2,"key":"b"}`)
			c.connect(t, "comet-1", `{"mid":1,"key":"c"}`)
			body := "any bytes: \x00\xff\r\n{\"a\":1}"
			before := time.Now().UnixNano()
			if got := c.post(t, test.path, body); got != success {
				t.Fatal(got)
			}
			got := c.records(t, len(test.want))
			for _, want := range test.want {
				want.push.Msg = []byte(body)
				i := indexOf(got, want.key)
				if i >= 0 {
					if at := got[i].push.Accepted; at < before || at > time.Now().UnixNano() {
						t.Errorf("record %q was accepted at %d, not between %d and now", want.key, at, before)
					}
					got[i].push.Accepted = 0
				}
				if i < 0 || !proto.Equal(got[i].push, want.push) {
					t.Fatalf("no record %q %v in %v", want.key, want.push, got)
				}
				if got[i].partition != saramaPartition(want.key) {
					t.Errorf("record %q in partition %d, goim's logic would choose %d", want.key, got[i].partition, saramaPartition(want.key))
				}
			}
		})
	}
}

func indexOf(records []record, key string) int {
	for i := range records {
		if records[i].key == key {
			return i
		}
	}
	return -1
}

// saramaPartition is the partition that goim's producer puts a key into.
func saramaPartition(key string) int32 {
	h := fnv.New32a()
	h.Write([]byte(key))
	p := int32(h.Sum32()) % testPartitions
	if p < 0 {
		p = -p
	}
	return p
}

// Many pushers at once: everything arrives, and what one pusher sends to a room, one request
// after the other, stays in order.
func TestConcurrentPushesKeepEachPushersOrder(t *testing.T) {
	c := startCluster(t, nil)
	c.ready(t)
	const pushers, rooms, each = 16, 4, 25
	var wg sync.WaitGroup
	for pusher := range pushers {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for n := range each {
				path := fmt.Sprintf("/goim/push/room?operation=1000&type=live&room=%d", pusher%rooms)
				resp, err := client.Post("http://"+c.server.HTTPAddr().String()+path, "", strings.NewReader(fmt.Sprintf("%d %d", pusher, n)))
				if got, err := readAnswer(resp, err); err != nil || got != success {
					t.Errorf("push: %s, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	var next [pushers]int
	for _, record := range c.records(t, pushers*each) {
		var pusher, n int
		fmt.Sscanf(string(record.push.GetMsg()), "%d %d", &pusher, &n)
		if want := fmt.Sprintf("live://%d", pusher%rooms); record.push.GetRoom() != want {
			t.Fatalf("%q in room %q, not %q", record.push.GetMsg(), record.push.GetRoom(), want)
		}
		if n != next[pusher] {
			t.Fatalf("pusher %d: message %d where %d was due", pusher, n, next[pusher])
		}
		next[pusher]++
	}
}
