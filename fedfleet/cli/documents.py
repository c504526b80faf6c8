"""The coordinator's messages as JSON documents: what ``--json`` prints. Scripts rely on them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fedfleet.store.audit import AuditRecord
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1 import federation_service_pb2 as federation

Document = dict[str, Any]  # a JSON object


def state_name(state: pb.RunState.ValueType) -> str:
    """For example ``running``."""
    return pb.RunState.Name(state).removeprefix("RUN_STATE_").lower()


def is_over(state: pb.RunState.ValueType) -> bool:
    """Whether the state is final."""
    return state in (pb.RUN_STATE_COMPLETED, pb.RUN_STATE_FAILED, pb.RUN_STATE_STOPPED)


def run_document(run: pb.Run) -> Document:
    """A run, without its recipe."""
    return {
        "run_id": run.run_id,
        "model": run.model,
        "state": state_name(run.state),
        "round": run.round,
        "rounds": run.rounds,
        "created_at_s": run.created_at_s,
        "updated_at_s": run.updated_at_s,
        "code": run.code,
        "reason": run.reason,
    }


def worker_document(worker: pb.Worker) -> Document:
    """A worker, its device, and its part in the run that is active or was."""
    has_heartbeat = worker.HasField("heartbeat")
    return {
        "worker_id": worker.worker_id,
        "connected": worker.connected,
        "connected_at_s": worker.connected_at_s,
        "last_seen_s": worker.last_seen_s,
        "assignment_id": worker.assignment_id or None,
        "progress_ratio": worker.progress_ratio,
        "updates": worker.updates,
        "traffic": traffic_document(worker.traffic),
        "tags": list(worker.tags),
        "software_version": worker.software_version,
        "device": device_document(worker.device),
        "heartbeat": heartbeat_document(worker.heartbeat) if has_heartbeat else None,
        "level": worker.level or None,
        "rounds": worker.rounds,
        "of_rounds": worker.of_rounds,
        "weight_ratio": worker.weight_ratio,
        "round_s": worker.round_s or None,
        "accuracies": [{"round": one.round, "accuracy": one.accuracy} for one in worker.accuracies],
    }


def device_document(device: federation.DeviceProfile) -> Document:
    """What a worker measured of its device; null for what it did not."""
    return {
        "machine": device.machine,
        "accelerator": device.accelerator,
        "cpu_count": device.cpu_count,
        "memory_bytes": device.memory_bytes,
        "samples_per_s": device.samples_per_s,
        "os": device.os,
        "levels": [speed_document(one) for one in device.levels],
        "link_down_bytes_per_s": device.link_down_bytes_per_s or None,
        "link_up_bytes_per_s": device.link_up_bytes_per_s or None,
    }


def speed_document(speed: federation.LevelSpeed) -> Document:
    """What a probe measured at one level; a speed of 0 ran out of memory."""
    return {
        "level": speed.level,
        "samples_per_s": speed.samples_per_s,
        "memory_bytes": speed.memory_bytes,
        "model_digest": speed.model_digest,
    }


def heartbeat_document(beat: federation.Heartbeat) -> Document:
    """How a device was when it last said so."""
    has_temperature = beat.HasField("temperature_celsius")
    return {
        "sent_at_s": beat.sent_at_s,
        "temperature_celsius": beat.temperature_celsius if has_temperature else None,
        "memory_used_bytes": beat.memory_used_bytes,
        "load_average": beat.load_average,
        "battery_ratio": beat.battery_ratio if beat.HasField("battery_ratio") else None,
        "pause_reason": beat.pause_reason or None,
        "link_down_bytes_per_s": beat.link_down_bytes_per_s or None,
        "link_up_bytes_per_s": beat.link_up_bytes_per_s or None,
        "levels": [speed_document(one) for one in beat.levels],
    }


def traffic_document(traffic: pb.Traffic) -> Document:
    """Payload bytes as seen from the worker."""
    return {"bytes_up": traffic.bytes_up, "bytes_down": traffic.bytes_down}


def alias_document(alias: pb.Alias) -> Document:
    """An alias; its model is told beside it."""
    return {"name": alias.name, "version": alias.version, "revision": alias.revision}


def version_document(version: pb.Version, aliases: Iterable[pb.Alias]) -> Document:
    """A version with those of its model's aliases that point at it."""
    return {
        "model": version.model,
        "version": version.number,
        "aliases": [alias_document(a) for a in aliases if a.version == version.number],
        "digest": version.digest,
        "size_bytes": version.size_bytes,
        "schema_digest": version.schema_digest,
        "run_id": version.run_id,
        "round": version.round,
        "parent": version.parent or None,
        "created_at_s": version.created_at_s,
        "card": json.loads(version.card_json or "{}"),
        "metrics": json.loads(version.metrics_json or "{}"),
        "signature": version.signature or None,
        "lineage": json.loads(version.lineage_json or "{}"),
        "retired_at_s": version.retired_at_s or None,
    }


def registry_event_document(event: pb.RegistryEvent) -> Document:
    """Something that happened to a version or an alias."""
    return {
        "event_id": event.event_id,
        "kind": event.kind,
        "model": event.model,
        "version": event.version,
        "alias": event.alias or None,
        "at_s": event.at_s or None,
    }


def role_name(role: pb.Role.ValueType) -> str:
    """For example ``operator``."""
    return pb.Role.Name(role or pb.ROLE_WORKER).removeprefix("ROLE_").lower()


def token_document(token: pb.Token) -> Document:
    """A token that was not used yet; its secret is nowhere."""
    return {
        "token_id": token.token_id,
        "role": role_name(token.role),
        "name": token.name,
        "created_at_s": token.created_at_s,
        "expires_at_s": token.expires_at_s,
    }


def key_document(key: pb.Key) -> Document:
    """A key for the inference service; its secret is nowhere."""
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scopes": list(key.scopes),
        "created_at_s": key.created_at_s,
        "expires_at_s": key.expires_at_s or None,
    }


def audit_document(record: AuditRecord) -> Document:
    """A record of the audit log with all that its hash is over."""
    return {
        "number": record.number,
        "at_s": record.at_s,
        "actor": record.actor,
        "action": record.action,
        "object": record.object,
        "fields": dict(record.fields),
        "hash": record.hash,
    }


def event_document(event: pb.RunEvent) -> Document:
    """An event with its fields unpacked."""
    return {
        "event_id": event.event_id,
        "run_id": event.run_id,
        "round": event.round,
        "at_s": event.at_s,
        "kind": event.kind,
        "fields": json.loads(event.fields_json or "{}"),
    }
