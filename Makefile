.PHONY: help setup serve test test-cluster check chaos soak fuzz

help:
	@echo "make serve   set up and serve on 127.0.0.1:8000 (ARGS='--port 9000' for flags)"
	@echo "make setup   make .venv with the locked dependencies"
	@echo "make test    run every test (ARGS='-k name' for some)"
	@echo "make test-cluster  run the tests that start a Ray cluster on this machine"
	@echo "make chaos   kill the engine 100 times under 16 streams, and compare their texts"
	@echo "make soak    half an hour of mixed traffic with kills, and whether anything grows"
	@echo "make fuzz    ask all that reads what strangers send with a million cases made to break it"
	@echo "make check   ruff, mypy --strict and the import test"

setup:
	@./setup.sh
serve:
	@./setup.sh serve $(ARGS)
test:
	@./setup.sh test $(ARGS)
test-cluster:
	@./setup.sh test-cluster $(ARGS)
chaos:
	@./setup.sh chaos $(ARGS)
soak:
	@./setup.sh soak $(ARGS)
fuzz:
	@./setup.sh fuzz $(ARGS)
check:
	@./setup.sh check
