package job

import (
	"log/slog"
	"slices"
	"strconv"
	"testing"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// A record that is kept until there is a comet is not overtaken by the next one of its
// partition, even if that is read when there is a comet already.
func TestKeptRecordIsNotOvertaken(t *testing.T) {
	y := newYard(t, quick())
	r := newReader(quick(), slog.New(slog.DiscardHandler), y.fleet.metrics)
	r.fleet = y.fleet
	r.parts[0] = y.part
	topic := "t"
	read := func(offset int64) {
		r.read(&kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &topic, Offset: kafka.Offset(offset)},
			Value: marshal(t, roomMsg("live://1", strconv.Itoa(int(offset))))})
	}
	y.list()
	read(0)
	y.list("a")
	read(1)
	if got := y.comets["a"].takenRoom("live://1"); len(got) != 0 {
		t.Fatalf("got %q before the kept record was handed out", got)
	}
	for r.held.len() > 0 {
		if !r.offer(r.held.front()) {
			t.Fatal("a kept record was not settled though there is a comet")
		}
		r.held.pop()
	}
	y.next = 2
	y.settled()
	if got := y.comets["a"].takenRoom("live://1"); !slices.Equal(got, []string{"0", "1"}) {
		t.Errorf("got %q", got)
	}
}
