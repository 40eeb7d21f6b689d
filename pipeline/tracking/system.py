"""Sample system metrics, under the names that MLflow's system page shows."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

_NVIDIA_QUERY = "index,utilization.gpu,memory.used,memory.total,power.draw,temperature.gpu"


class SystemSampler:
    """Samples processor, memory, disk, network and GPUs; network traffic is counted since the last sample."""

    def __init__(self, trainer_pid: int) -> None:
        self._trainer = psutil.Process(trainer_pid) if psutil.pid_exists(trainer_pid) else None
        self._nvidia_smi = shutil.which("nvidia-smi")
        self._network = psutil.net_io_counters()
        psutil.cpu_percent()  # the first call only starts the measurement

    def sample(self) -> dict[str, float]:
        """Return the current values; each key begins with `system/`."""
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / 1e6,
            **self._network_since_last(),
            **self._trainer_memory(),
            **self._gpus(),
        }
        return {f"system/{key}": round(value, 2) for key, value in found.items()}

    def _network_since_last(self) -> dict[str, float]:
        last, now = self._network, psutil.net_io_counters()
        if last is None or now is None:
            return {}
        self._network = now
        return {
            "network_receive_megabytes": (now.bytes_recv - last.bytes_recv) / 1e6,
            "network_transmit_megabytes": (now.bytes_sent - last.bytes_sent) / 1e6,
        }

    def _trainer_memory(self) -> dict[str, float]:
        if self._trainer is None:
            return {}
        try:
            return {"trainer_memory_megabytes": self._trainer.memory_info().rss / 1e6}
        except psutil.NoSuchProcess:
            return {}

    def _gpus(self) -> dict[str, float]:
        if self._nvidia_smi is None:
            return {}
        command = [self._nvidia_smi, f"--query-gpu={_NVIDIA_QUERY}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return {}
        return parse_nvidia_smi(done.stdout) if done.returncode == 0 else {}


def peak_memory() -> dict[str, float]:
    """Return the peak memory of this process, and of PyTorch on its GPU; keys begin with `system/`."""
    found = {"peak_memory_megabytes": _peak_bytes() / 1e6}
    torch = sys.modules.get("torch")  # without torch, the process uses no GPU memory
    if torch is not None and torch.cuda.is_initialized():
        found["peak_gpu_memory_megabytes"] = torch.cuda.max_memory_allocated() / 1e6
    return {f"system/{key}": round(value, 2) for key, value in found.items()}


def _peak_bytes() -> float:
    """Return the peak memory in bytes; Linux has VmHWM, since `ru_maxrss` includes the parent's memory."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * float(peak.split()[1])


def parse_nvidia_smi(text: str) -> dict[str, float]:
    """Parse the rows of `nvidia-smi --query-gpu`; fields that are not available (`[N/A]`) are left out."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(_NVIDIA_QUERY.split(",")):
            continue
        index, use, used, total, power, temperature = fields
        told = {
            "utilization_percentage": _number(use),
            "memory_usage_megabytes": _number(used),
            "memory_usage_percentage": _percent(_number(used), _number(total)),
            "power_usage_watts": _number(power),
            "temperature_celsius": _number(temperature),
        }
        found.update({f"gpu_{index}_{key}": value for key, value in told.items() if value is not None})
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _percent(part: float | None, whole: float | None) -> float | None:
    return 100 * part / whole if part is not None and whole else None
